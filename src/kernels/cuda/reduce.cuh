#pragma once

#include <algorithm>

#include "kernels/cuda/launch.cuh"

namespace samba {

/// The sum over a warp, in every lane, in an order of its own: the same bits every time.
template <class T>
__device__ inline T warp_sum(T x) {
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
  return x;
}

__device__ inline float warp_max(float x) {
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lane));
  return x;
}

/// The sum over a block of `threads` threads, in every thread. `scratch` holds threads / 32 values;
/// it may be used again after the next barrier.
template <int threads, class T>
__device__ inline T block_sum(T x, T* scratch) {
  x = warp_sum(x);
  if (threads == 32) return x;
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  T sum = 0;
#pragma unroll
  for (int warp = 0; warp < threads / 32; ++warp) sum += scratch[warp];
  return sum;
}

/// The same for blocks of any whole number of warps.
template <class T>
__device__ inline T block_sum(T x, T* scratch) {
  x = warp_sum(x);
  if (blockDim.x == 32) return x;
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  T sum = 0;
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) sum += scratch[warp];
  return sum;
}

/// Blocks of a kernel that the GPU works on at once: where each leaves a row of partial sums, more
/// would only make more of them.
template <class... Parameters>
Index blocks_at_once(CudaStream& stream, void (*kernel)(Parameters...), int threads) {
  int blocks = 0;
  cuda_check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, 0));
  return Index{std::max(1, blocks)} * stream.multiprocessors();
}

/// to += the sum over the rows of `from`: 32 columns a block, whose warps share the rows. The order
/// is always the same.
template <int warps>
__global__ void add_rows(View to, ConstView from) {
  __shared__ float sums[warps][32];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const Index col = Index{blockIdx.x} * 32 + lane;
  float sum = 0;
  if (col < from.cols) {
#pragma unroll 4
    for (Index row = warp; row < from.rows; row += warps) sum += from.row<float>(row)[col];
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp > 0 || col >= from.cols) return;
  for (int other = 1; other < warps; ++other) sum += sums[other][lane];
  to.row<float>(0)[col] += sum;
}

/// to [1, D] += the sum over the rows of `from` [R, D], both f32, in an order of its own.
inline void add_sum_of_rows(CudaStream& stream, View to, ConstView from) {
  constexpr int kWarps = 32;
  launch(stream, add_rows<kWarps>, static_cast<unsigned>(ceil_div(to.cols, Index{32})), 32 * kWarps,
         0, to, from);
}

}  // namespace samba
