#include "kernels/argmax.h"
#include "kernels/cuda/launch.cuh"

namespace samba {
namespace {

constexpr int kThreads = 1024;

struct Best {
  float value;
  int column;
};

__device__ Best better(Best a, Best b) {
  return b.value > a.value || (b.value == a.value && b.column < a.column) ? b : a;
}

__device__ Best best_of_warp(Best best) {
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2)
    best = better(best, {__shfl_xor_sync(0xffffffffu, best.value, lane),
                         __shfl_xor_sync(0xffffffffu, best.column, lane)});
  return best;
}

/// A block takes a row. Columns that hold nothing greater than -infinity give column 0.
__global__ __launch_bounds__(kThreads) void argmax(const op::Argmax op) {
  __shared__ Best warps[kThreads / 32];
  let_next_begin();
  wait_for_previous();
  const float* x = op.x.row<float>(blockIdx.x);
  Best best{-INFINITY, 0};
#pragma unroll 16
  for (int i = threadIdx.x; i < op.x.cols; i += kThreads)
    if (x[i] > best.value) best = {x[i], i};
  best = best_of_warp(best);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  best = best_of_warp(warps[threadIdx.x]);
  if (threadIdx.x == 0) *op.y.row<std::int32_t>(blockIdx.x) = best.column;
}

}  // namespace

void run_on(CudaStream& stream, const op::Argmax& op) {
  launch_early(stream, argmax, static_cast<unsigned>(op.x.rows), kThreads, 0, op);
}

}  // namespace samba
