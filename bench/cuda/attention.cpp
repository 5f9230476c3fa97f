#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "kernels/run.h"
#include "measure.h"
#include "rows.h"

namespace samba::bench {
namespace {

constexpr Index kFull = Index{1} << 40;

/// Matrices of one call in bf16: q, k and v are columns of one, as the layer lays them out.
struct Call {
  op::Heads heads;
  Matrix qkv, y, lse, keys, values;
  std::vector<Span> spans;
  op::Attention forward;

  Call(Stream& stream, op::Heads shape, Index rows, Index window, bool training) : heads(shape) {
    const Index q = heads.heads * heads.width, kv = heads.kv_heads * heads.width;
    qkv = random_matrix(stream, DType::bf16, rows, q + 2 * kv);
    y = Matrix(stream, DType::bf16, rows, q);
    if (training) lse = Matrix(stream, DType::f32, rows, heads.heads);
    const View in = qkv;
    forward = {.y = y,
               .lse = lse,
               .q = in.columns(0, q),
               .k = in.columns(q, kv),
               .v = in.columns(q + kv, kv),
               .heads = heads,
               .window = window,
               .scale = 1 / std::sqrt(static_cast<double>(heads.width)),
               .batch = {}};
  }

  /// Rings of so many rows for every span.
  void add_state(Stream& stream, Index capacity) {
    const Index cols = capacity * heads.kv_heads * heads.width,
                slots = static_cast<Index>(spans.size());
    keys = random_matrix(stream, DType::bf16, slots, cols);
    values = random_matrix(stream, DType::bf16, slots, cols);
    forward.key_state = keys;
    forward.value_state = values;
  }

  /// Pairs of query and key of all spans.
  double pairs() const {
    double sum = 0;
    for (const Span& span : spans)
      for (Index i = span.position; i < span.position + span.length; ++i)
        sum += static_cast<double>(std::min(i + 1, forward.window));
    return sum;
  }
};

std::string name_of(const char* kind, op::Heads heads, Index sequences, Index rows, Index window) {
  std::string name = std::string("attention ") + kind + ", " + std::to_string(sequences) + " x " +
                     std::to_string(rows) + ", heads " + std::to_string(heads.heads) + ":" +
                     std::to_string(heads.kv_heads) + " of " + std::to_string(heads.width);
  if (window < kFull) name += ", window " + std::to_string(window);
  return name;
}

/// Times of PyTorch and of the goal, forward then backward.
struct Known {
  double pytorch[2] = {};
  double goal[2] = {};
};

void add_training(Stream& stream, std::vector<Row>& rows, op::Heads heads, Index sequences,
                  Index length, Index window, const Known& known) {
  Call call(stream, heads, sequences * length, window, true);
  for (Index i = 0; i < sequences; ++i) call.spans.push_back({i * length, length, 0, -1});
  call.forward.batch = batch_of(call.spans);
  const double product =
      2 * call.pairs() * static_cast<double>(heads.heads * heads.width);  // of one of them
  add(rows, {.job = name_of("forward", heads, sequences, length, window),
             .seconds = median_seconds(stream, [&] { run(stream, call.forward); }),
             .flops = 2 * product,
             .pytorch = known.pytorch[0],
             .goal = known.goal[0]});
  const op::Attention& forward = call.forward;
  const Index tokens = sequences * length, q = forward.q.cols, kv = forward.k.cols;
  const Matrix dqkv(stream, DType::bf16, tokens, q + 2 * kv);
  const Matrix dy = random_matrix(stream, DType::bf16, tokens, q);
  const View out = dqkv;
  const op::AttentionBackward backward{.dq = out.columns(0, q),
                                       .dk = out.columns(q, kv),
                                       .dv = out.columns(q + kv, kv),
                                       .dy = dy,
                                       .y = forward.y,
                                       .lse = forward.lse,
                                       .q = forward.q,
                                       .k = forward.k,
                                       .v = forward.v,
                                       .heads = heads,
                                       .window = window,
                                       .scale = forward.scale,
                                       .batch = forward.batch};
  add(rows, {.job = name_of("backward", heads, sequences, length, window),
             .seconds = median_seconds(stream, [&] { run(stream, backward); }),
             .flops = 5 * product,
             .pytorch = known.pytorch[1],
             .goal = known.goal[1]});
}

/// The last chunk of a prompt, whose keys before it are in the ring.
void add_prefill(Stream& stream, std::vector<Row>& rows, op::Heads heads, Index position,
                 Index length, Index window) {
  Call call(stream, heads, length, window, false);
  call.spans = {{0, length, position, 0}};
  call.forward.batch = batch_of(call.spans);
  call.add_state(stream, std::min(window, position + length));
  add(rows,
      {.job = name_of("prefill", heads, 1, length, window) + " after " + std::to_string(position),
       .seconds = median_seconds(stream, [&] { run(stream, call.forward); }),
       .flops = 4 * call.pairs() * static_cast<double>(heads.heads * heads.width)});
}

void add_decode(Stream& stream, std::vector<Row>& rows, op::Heads heads, Index sequences,
                Index capacity) {
  Call call(stream, heads, sequences, kFull, false);
  for (Index i = 0; i < sequences; ++i) call.spans.push_back({i, 1, capacity - 1 - i, i});
  call.forward.batch = batch_of(call.spans);
  call.add_state(stream, capacity);
  add(rows, {.job = name_of("decode", heads, sequences, capacity, kFull),
             .seconds = median_seconds(stream, [&] { run(stream, call.forward); }),
             .bytes = 4 * call.pairs() * static_cast<double>(heads.kv_heads * heads.width)});
}

}  // namespace

std::vector<Row> attention_rows(Stream& stream) {
  std::vector<Row> rows;
  add_training(stream, rows, {12, 12, 128}, 8, 4096, 2048,
               {{0.965e-3, 2.684e-3}, {0.65e-3, 1.9e-3}});
  add_training(stream, rows, {12, 12, 128}, 8, 4096, kFull,
               {{0.723e-3, 2.335e-3}, {0.85e-3, 2.7e-3}});
  add_prefill(stream, rows, {32, 4, 64}, 0, 131072, 2048);
  add_prefill(stream, rows, {32, 4, 64}, 126976, 4096, 2048);
  add_prefill(stream, rows, {32, 4, 64}, 126976, 4096, kFull);
  add_prefill(stream, rows, {32, 8, 64}, 0, 131072, kFull);
  add_decode(stream, rows, {32, 4, 64}, 1, 2048);
  add_decode(stream, rows, {32, 4, 64}, 16, 2048);
  add_decode(stream, rows, {32, 8, 64}, 1, 4096);
  add_decode(stream, rows, {32, 4, 64}, 16, 65536);
  add_decode(stream, rows, {32, 8, 64}, 16, 65536);
  add_decode(stream, rows, {12, 12, 128}, 16, 2048);
  return rows;
}

}  // namespace samba::bench
