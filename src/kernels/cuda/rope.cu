#include <algorithm>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/spans.cuh"
#include "kernels/cuda/vector.cuh"
#include "kernels/rope.h"
#include "kernels/rope_turns.h"

namespace samba {
namespace {

constexpr int kThreads = 256;
constexpr Index kMostPairs = 128;  // of columns a launch, whose frequencies are its parameter

struct Frequencies {
  Turn turns[kMostPairs];
};

/// Which of the pairs of columns of a head a launch rotates, and how many heads a thread.
struct Part {
  Index first, count, heads;
};

struct Rotation {
  float cosine, sine;
};

__device__ Rotation rotation_of(Turn frequency, Index position) {
  constexpr float kHalfPi = 1.57079632679489661923f;
  const auto p = static_cast<std::uint64_t>(position);
  const auto low = static_cast<std::uint64_t>(frequency),
             high = static_cast<std::uint64_t>(frequency >> 64);
  // The upper half of position times frequency modulo 2^128, in quadrants and a rest of at most
  // half a one.
  const std::uint64_t top = p * high + __umul64hi(p, low);
  const std::uint64_t quadrant = (top + (std::uint64_t{1} << 61)) >> 62;
  const auto rest = static_cast<std::int64_t>(top - (quadrant << 62));
  const float x = __ll2float_rn(rest) * (kHalfPi * 0x1p-62f), z = x * x;
  // Taylor's series on [-pi / 4, pi / 4], to below half a unit in the last place.
  float s = 1 / 362880.0f;
  s = s * z - 1 / 5040.0f;
  s = s * z + 1 / 120.0f;
  s = s * z - 1 / 6.0f;
  s = s * z * x + x;
  float c = -1 / 3628800.0f;
  c = c * z + 1 / 40320.0f;
  c = c * z - 1 / 720.0f;
  c = c * z + 1 / 24.0f;
  c = c * z - 0.5f;
  c = c * z + 1;
  const bool swapped = quadrant % 2 == 1;
  const float cosine = swapped ? s : c, sine = swapped ? c : s;
  const auto turned = static_cast<unsigned>(quadrant) % 4;
  return {turned == 1 || turned == 2 ? -cosine : cosine, turned >= 2 ? -sine : sine};
}

/// A thread turns n neighbouring pairs of one row, in as many heads as `part` says.
template <class T, int n>
__global__ void __launch_bounds__(kThreads)
    rope(const __grid_constant__ op::Rope op, const __grid_constant__ Frequencies frequencies,
         const Part part) {
  let_next_begin();
  wait_for_previous();
  const auto [row, pair] = place_of<n>(Index{blockIdx.x} * kThreads + threadIdx.x, part.count);
  if (row >= op.x.rows) return;
  const Span& span = op.batch.spans[span_of(op.batch, row)];
  Index position = span.position + row - span.first;
  if (op.group > 1) position /= op.group;
  position += op.shift;
  Rotation rotations[n];
#pragma unroll
  for (int i = 0; i < n; ++i) {
    rotations[i] = rotation_of(frequencies.turns[pair + i], position);
    if (op.inverse) rotations[i].sine = -rotations[i].sine;
  }
  const Index half = op.x.cols / op.heads / 2;
  const Index first = blockIdx.y * part.heads, end = min(op.heads, first + part.heads);
  T* x = op.x.row<T>(row) + first * 2 * half + part.first + pair;
  for (Index head = first; head < end; ++head, x += 2 * half) {
    float a[n], b[n];
    load<n>(a, x);
    load<n>(b, x + half);
#pragma unroll
    for (int i = 0; i < n; ++i) {
      const auto [cosine, sine] = rotations[i];
      const float left = a[i] * cosine - b[i] * sine;
      b[i] = a[i] * sine + b[i] * cosine;
      a[i] = left;
    }
    store<n>(x, a);
    store<n>(x + half, b);
  }
}

}  // namespace

void run_on(CudaStream& stream, const op::Rope& given) {
  op::Rope op = given;
  const Index half = op.x.cols / op.heads / 2;
  if (op.batch.tokens == 0 || half == 0) return;
  op.batch.spans =
      stream.resident(std::span(op.batch.spans, static_cast<std::size_t>(op.batch.count)));
  std::vector<Turn> turns(static_cast<std::size_t>(half));
  fill_frequencies(op.base, half, turns.data());
  visit_float(op.dtype(), [&]<class T>() {
    constexpr int n = 16 / sizeof(T);
    const bool whole = half % n == 0 && aligned(n, op.x);
    for (Index first = 0; first < half; first += kMostPairs) {
      Part part{first, std::min(half - first, kMostPairs), op.heads};
      Frequencies frequencies;
      std::copy_n(turns.begin() + first, part.count, frequencies.turns);
      const Index runs = op.x.rows * (part.count / (whole ? n : 1));
      // A thread's angles serve as many heads as leave enough threads to be shared out evenly.
      const Index wanted = Index{stream.multiprocessors()} * 16 * kThreads;
      part.heads = std::clamp<Index>(op.heads * runs / wanted, 1, op.heads);
      const dim3 grid(static_cast<unsigned>(ceil_div(runs, Index{kThreads})),
                      static_cast<unsigned>(ceil_div(op.heads, part.heads)));
      launch_early(stream, whole ? rope<T, n> : rope<T, 1>, grid, kThreads, 0, op, frequencies,
                   part);
    }
  });
}

}  // namespace samba
