#include <algorithm>
#include <vector>

#include "kernels/attention.h"
#include "kernels/cuda/attention_parts.cuh"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/vector.cuh"

namespace samba {
namespace attention {
namespace {

constexpr int kThreads = 256;

/// Copies units of memory from a span's last rows to its ring: a warp takes a row of keys or of
/// values.
template <class Unit>
__global__ void leave(const op::Attention op) {
  const Span span = op.batch.spans[blockIdx.y];
  if (span.slot < 0 || decodes(op, span)) return;
  const Index warp = (Index{blockIdx.x} * kThreads + threadIdx.x) / 32, back = warp / 2;
  const Index ring = capacity(op);
  if (back >= span.length || back >= ring) return;
  const ConstView& from = warp % 2 == 0 ? op.k : op.v;
  const View& state = warp % 2 == 0 ? op.key_state : op.value_state;
  const Index size = size_of(from.dtype), row = span.length - 1 - back;
  const auto* source =
      reinterpret_cast<const Unit*>(from.data + (span.first + row) * from.stride * size);
  auto* to = reinterpret_cast<Unit*>(
      state.data + (span.slot * state.stride + (span.position + row) % ring * from.cols) * size);
  const Index units = from.cols * size / static_cast<Index>(sizeof(Unit));
  for (Index i = threadIdx.x % 32; i < units; i += 32) to[i] = source[i];
}

void leave_rows(CudaStream& stream, const op::Attention& op) {
  const Index rows = std::min(op.batch.longest, capacity(op));
  const dim3 grid(static_cast<unsigned>(ceil_div(2 * rows, Index{kThreads / 32})),
                  static_cast<unsigned>(op.batch.count));
  const int n = static_cast<int>(16 / size_of(op.k.dtype));
  if (aligned(n, op.k, op.v, op.key_state, op.value_state))
    launch(stream, leave<uint4>, grid, kThreads, 0, op);
  else if (op.k.dtype == DType::bf16)
    launch(stream, leave<std::uint16_t>, grid, kThreads, 0, op);
  else
    launch(stream, leave<std::uint32_t>, grid, kThreads, 0, op);
}

/// The tiles of all spans that do not decode.
std::vector<Tile> tiles_of(const op::Attention& op, const Span* spans) {
  std::vector<Tile> tiles;
  for (Index i = 0; i < op.batch.count; ++i) {
    if (decodes(op, spans[i])) continue;
    for (Index first = 0; first < spans[i].length; first += kGeneralRows)
      tiles.push_back({i, first});
  }
  return tiles;
}

/// Whether attend_64 and its like take the call.
bool suits_hopper(const op::Attention& op) {
  const Index width = op.heads.width;
  const auto maps = [](ConstView v) { return v.empty() || hopper::can_map(v); };
  return (width == 64 || width == 128 || width == 256) && op.heads.value_width % width == 0 &&
         op.scale >= kLeastScale && aligned(8, op.y) && maps(op.q) && maps(op.k) && maps(op.v) &&
         maps(op.key_state) && maps(op.value_state);
}

}  // namespace
}  // namespace attention

void run_on(CudaStream& stream, const op::Attention& host_op) {
  using namespace attention;
  if (host_op.batch.count == 0) return;
  op::Attention op = host_op;
  const Span* spans = op.batch.spans;
  op.batch.spans =
      stream.resident(std::span(op.batch.spans, static_cast<std::size_t>(op.batch.count)));
  const bool tokens = std::any_of(spans, spans + op.batch.count,
                                  [&](const Span& span) { return decodes(op, span); });
  const bool tiles = std::any_of(spans, spans + op.batch.count,
                                 [&](const Span& span) { return !decodes(op, span); });
  if (tokens) decode(stream, op);
  if (!tiles) return;
  if (!stream.hopper() || !suits_hopper(op))
    attend_generally(stream, op, tiles_of(op, spans));
  else if (op.heads.width == 64)
    attend_64(stream, op, spans);
  else if (op.heads.width == 128)
    attend_128(stream, op, spans);
  else
    attend_256(stream, op, spans);
  if (!op.key_state.empty()) leave_rows(stream, op);
}

}  // namespace samba
