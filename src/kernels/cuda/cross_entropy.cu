#include <algorithm>
#include <cfloat>

#include "kernels/cross_entropy.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/vector.cuh"

namespace samba {
namespace {

constexpr int kRun = 4;  // columns that a thread takes at once
constexpr int kThreads = 512;

__device__ inline float not_a_number() {
  return __int_as_float(0x7fffffff);
}

__device__ inline float loss_of(float sum, float below) {
  return static_cast<float>(log(static_cast<double>(sum)) - static_cast<double>(below));
}

/// The greatest of a block's numbers or their sum, of up to 1024 threads.
template <class Combine>
__device__ inline float of_block(float x, float* scratch, float none, const Combine& combine) {
  x = combine(x);
  const unsigned lane = threadIdx.x % 32;
  if (lane == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  return combine(lane < blockDim.x / 32 ? scratch[lane] : none);
}
__device__ inline float block_max(float x, float* scratch) {
  return of_block(x, scratch, -FLT_MAX, [](float value) { return warp_max(value); });
}
__device__ inline float block_total(float x, float* scratch) {
  return of_block(x, scratch, 0, [](float value) { return warp_sum(value); });
}

template <class T>
__device__ inline void store_gradient(const op::CrossEntropy& op, bool whole, Index row, Index col,
                                      const float (&d)[kRun]) {
  T* to = op.dlogits.row<T>(row) + col;
  if (whole)
    store<kRun>(to, d);
  else
    store_run<false>(to, d, op.logits.cols - col);
}

// ---- rows of any width ------------------------------------------------------------------------

/// A block takes a row and reads it twice, the second time from the cache where that is large
/// enough. The first walk keeps a sum below a maximum of its own for each thread.
template <class T, bool whole>
__global__ void __launch_bounds__(kThreads)
    cross_entropy(const op::CrossEntropy op, const bool whole_gradient) {
  __shared__ float scratch[2][32];
  const Index row = blockIdx.x, width = op.logits.cols;
  const float* x = op.logits.row<float>(row);
  const Index target = *op.targets.row<std::int32_t>(row);
  const bool bad = target < -1 || target >= width;
  const float at_target = target >= 0 && !bad ? x[target] : 0;
  // From a finite number on: a logit of -infinity is then 0 like others far below the greatest.
  float top = -FLT_MAX, sum = 0;
#pragma unroll 2
  for (Index col = Index{threadIdx.x} * kRun; col < width; col += kThreads * kRun) {
    float values[kRun];
    load_run<whole>(values, x + col, width - col);
    float greatest = top;
#pragma unroll
    for (int i = 0; i < kRun; ++i)
      if (whole || col + i < width) greatest = fmaxf(greatest, values[i]);
    if (greatest > top) {
      sum *= expf(top - greatest);
      top = greatest;
    }
#pragma unroll
    for (int i = 0; i < kRun; ++i)
      if (whole || col + i < width) sum += expf(values[i] - top);
  }
  const float highest = block_max(top, scratch[0]);
  sum = block_total(sum * expf(top - highest), scratch[1]);
  if (bad) sum = not_a_number();
  if (threadIdx.x == 0)
    *op.loss.row<float>(row) = target == -1 ? 0 : loss_of(sum, at_target - highest);
  if (op.dlogits.empty()) return;
  const auto scale = static_cast<float>(op.scale);
  const float share = scale / sum;
  for (Index col = Index{threadIdx.x} * kRun; col < width; col += kThreads * kRun) {
    float values[kRun];
    load_run<whole>(values, x + col, width - col);
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      values[i] = expf(values[i] - highest) * share;
      if (col + i == target) values[i] -= scale;
      if (target == -1) values[i] = 0;
    }
    store_gradient<T>(op, whole_gradient, row, col, values);
  }
}

// ---- rows that a multiprocessor holds ----------------------------------------------------------

// A block per multiprocessor keeps a row in registers, and fetches the next into shared memory
// meanwhile. Threads fetch for themselves, so that no barrier is needed for it.

constexpr int kAllThreads = 1024, kRuns = 8;
constexpr Index kMostKept = Index{kAllThreads} * kRuns * kRun, kLeastKept = kMostKept / 4;
constexpr std::size_t kStaged = kMostKept * sizeof(float);

__device__ inline Index column_of(int run) {
  return (Index{run} * kAllThreads + threadIdx.x) * kRun;
}

__device__ inline void fetch(const op::CrossEntropy& op, Index row, float4* staged) {
  if (row < op.logits.rows) {
    const float* x = op.logits.row<float>(row);
#pragma unroll
    for (int run = 0; run < kRuns; ++run) {
      if (column_of(run) >= op.logits.cols) break;
      const auto to =
          static_cast<unsigned>(__cvta_generic_to_shared(&staged[run * kAllThreads + threadIdx.x]));
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(x + column_of(run)));
    }
  }
  asm volatile("cp.async.commit_group;");
}

template <class T>
__global__ void __launch_bounds__(kAllThreads)
    cross_entropy_kept(const op::CrossEntropy op, const bool whole_gradient) {
  extern __shared__ float4 staged[];  // [kRuns][kAllThreads]
  __shared__ float scratch[2][32];
  const Index width = op.logits.cols;
  const auto scale = static_cast<float>(op.scale);
  fetch(op, blockIdx.x, staged);
  for (Index row = blockIdx.x; row < op.logits.rows; row += gridDim.x) {
    const Index target = *op.targets.row<std::int32_t>(row);
    asm volatile("cp.async.wait_all;" ::: "memory");
    float x[kRuns][kRun];
    float top = -FLT_MAX;
#pragma unroll
    for (int run = 0; run < kRuns; ++run) {
      const float4 values = column_of(run) < width
                                ? staged[run * kAllThreads + threadIdx.x]
                                : float4{-INFINITY, -INFINITY, -INFINITY, -INFINITY};
      x[run][0] = values.x, x[run][1] = values.y, x[run][2] = values.z, x[run][3] = values.w;
#pragma unroll
      for (int i = 0; i < kRun; ++i) top = fmaxf(top, x[run][i]);
    }
    top = block_max(top, scratch[0]);
    fetch(op, row + gridDim.x, staged);
    float sum = 0, below = 0;
#pragma unroll
    for (int run = 0; run < kRuns; ++run)
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        if (column_of(run) + i == target) below = x[run][i] - top;
        x[run][i] = expf(x[run][i] - top);
        sum += x[run][i];
      }
    sum = block_total(sum, scratch[1]);
    if (target < -1 || target >= width) sum = not_a_number();
    // The thread that has the target writes the loss; the first where there is none.
    if (threadIdx.x == (target >= 0 && target < width ? target / kRun % kAllThreads : 0))
      *op.loss.row<float>(row) = target == -1 ? 0 : loss_of(sum, below);
    if (op.dlogits.empty()) continue;
    const float share = target == -1 ? 0 : scale / sum;
#pragma unroll
    for (int run = 0; run < kRuns; ++run) {
      const Index col = column_of(run);
      if (col >= width) break;
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        x[run][i] = target == -1 ? 0 : x[run][i] * share;
        if (col + i == target) x[run][i] -= scale;
      }
      store_gradient<T>(op, whole_gradient, row, col, x[run]);
    }
  }
}

}  // namespace

void run_on(CudaStream& stream, const op::CrossEntropy& op) {
  const DType dtype = op.dlogits.empty() ? op.logits.dtype : op.dlogits.dtype;
  const Index rows = op.logits.rows, width = op.logits.cols;
  const bool whole = aligned(kRun, op.logits), whole_gradient = aligned(kRun, op.dlogits);
  const bool kept = whole && width >= kLeastKept && width <= kMostKept &&
                    stream.properties().sharedMemPerBlockOptin > kStaged;
  visit_float(dtype, [&]<class T>() {
    if (kept)
      launch(stream, cross_entropy_kept<T>,
             static_cast<unsigned>(std::min<Index>(rows, stream.multiprocessors())), kAllThreads,
             kStaged, op, whole_gradient);
    else
      launch(stream, whole ? cross_entropy<T, true> : cross_entropy<T, false>,
             static_cast<unsigned>(rows), kThreads, 0, op, whole_gradient);
  });
}

}  // namespace samba
