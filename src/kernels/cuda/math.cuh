#pragma once

#include <type_traits>

#include "core/dtype.h"

// Elementary functions as exact as the type that their results are rounded to. Data of f32 take the
// library's, those of bf16 the fast ones: their error, some units of f32, is far below a rounding.

namespace samba {

/// 2^x, the special-function unit's own: 2 units in the last place, and 0 below 2^-126.
__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

template <class T>
__device__ inline float exponential(float x) {
  if constexpr (std::is_same_v<T, Bf16>) return __expf(x);
  return expf(x);
}

template <class T>
__device__ inline float quotient(float x, float y) {
  if constexpr (std::is_same_v<T, Bf16>) return __fdividef(x, y);
  return x / y;
}

/// 1 / (1 + e^-x)
template <class T>
__device__ inline float sigmoid(float x) {
  return quotient<T>(1, 1 + exponential<T>(-x));
}

/// x / (1 + e^-x)
template <class T>
__device__ inline float silu(float x) {
  return x * sigmoid<T>(x);
}

/// d silu(x) / dx, for the sigmoid s of x
__device__ inline float silu_slope(float x, float s) {
  return s * (1 + x * (1 - s));
}

}  // namespace samba
