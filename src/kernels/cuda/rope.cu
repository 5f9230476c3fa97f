#include <algorithm>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/rope.cuh"
#include "kernels/cuda/vector.cuh"

namespace samba {
namespace {

constexpr int kThreads = 256;

/// Which of the pairs of columns of a head a launch rotates, and how many heads a thread.
struct Part {
  Index first, count, heads;
};

/// A thread turns n neighbouring pairs of one row, in as many heads as `part` says.
template <class T, int n>
__global__ void __launch_bounds__(kThreads)
    rope(const __grid_constant__ op::Rope op, const __grid_constant__ Frequencies frequencies,
         const Part part) {
  let_next_begin();
  wait_for_previous();
  const auto [row, pair] = place_of<n>(Index{blockIdx.x} * kThreads + threadIdx.x, part.count);
  if (row >= op.x.rows) return;
  const Index position = position_of(op, row);
  Rotation rotations[n];
#pragma unroll
  for (int i = 0; i < n; ++i)
    rotations[i] = rotation_of(frequencies.turns[pair + i], position, op.inverse);
  const Index half = op.x.cols / op.heads / 2;
  const Index first = blockIdx.y * part.heads, end = min(op.heads, first + part.heads);
  T* x = op.x.row<T>(row) + first * 2 * half + part.first + pair;
  for (Index head = first; head < end; ++head, x += 2 * half) {
    float a[n], b[n];
    load<n>(a, x);
    load<n>(b, x + half);
#pragma unroll
    for (int i = 0; i < n; ++i) rotations[i].turn(a[i], b[i]);
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
