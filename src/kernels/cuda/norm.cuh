#pragma once

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vector.cuh"

// How a row is normed, for kernels that all leave the same bits.
//
// Some warps take a row, a thread of them runs of kNormRun columns, the warps' width apart; its
// squares are summed run by run, those of the threads by warp_sum, and those of the warps in order.

namespace samba {
namespace {

constexpr int kNormRun = 4;   ///< neighbouring threads access 16 bytes of f32 and 8 of bf16
constexpr int kNormKept = 2;  ///< runs that a thread keeps in registers

/// Warps that keep a row of that width in registers.
constexpr Index norm_warps(Index width) {
  return ceil_div(width, Index{32} * kNormRun * kNormKept);
}

/// squares += the squares of x
__device__ inline void add_squares(float& squares, const float (&x)[kNormRun]) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kNormRun; ++i) sum = fmaf(x[i], x[i], sum);
  squares += sum;
}

__device__ inline float norm_scale(float squares, Index width, double eps) {
  return 1 / sqrtf(squares / static_cast<float>(width) + static_cast<float>(eps));
}

/// x over its rms, rounded to T.
template <class T>
__device__ inline float normal_of(float x, float scale) {
  return to_float(from_float<T>(x * scale));
}

}  // namespace
}  // namespace samba
