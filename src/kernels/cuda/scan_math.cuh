#pragma once

#include "kernels/cuda/math.cuh"

// Elementary functions where the special-function unit or the number of instructions is the limit.
// Data of f32 take the library's, those of bf16 what the unit gives: its error, some units of f32,
// is far below a rounding.

namespace samba {

/// 2^x for x <= 0. Where a state lives through many tokens the errors of its decays add up, so that
/// for data of f32 they are kept to 0.6 units in the last place, without a bias: 2^x = 2^n 2^r with
/// n whole, and the latter a polynomial through Chebyshev's points that is 1 at 0.
template <class T>
__device__ inline float exp2_of(float x) {
  if constexpr (sizeof(T) == 2) return exp2_fast(x);
  const float bounded = fmaxf(x, -126), magic = 12582912;  // 1.5 2^23: the sum's last digit is 1
  const float shifted = bounded + magic, r = bounded - (shifted - magic);
  float y = 0.000154531634f;
  y = fmaf(y, r, 0.00133908633f);
  y = fmaf(y, r, 0.00961808302f);
  y = fmaf(y, r, 0.0555035695f);
  y = fmaf(y, r, 0.240226507f);
  y = fmaf(y, r, 0.693147182f);
  y = fmaf(y, r, 1);
  return __int_as_float(__float_as_int(y) + (__float_as_int(shifted) << 23));
}

/// e^x, for data of f32 as exact as theirs.
template <class T>
__device__ inline float exp_of(float x) {
  if constexpr (sizeof(T) == 4) return expf(x);
  return exp2_fast(1.44269504f * x);
}

/// 1 / (1 + e^-x)
template <class T>
__device__ inline float sigmoid_of(float x) {
  const float below = 1 + exp_of<T>(-x);
  if constexpr (sizeof(T) == 4) return 1 / below;
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(below));
  return y;
}

/// d silu(x) / dx, for the sigmoid s of x
__device__ inline float silu_slope_of(float x, float s) {
  return s * fmaf(x, 1 - s, 1);
}

}  // namespace samba
