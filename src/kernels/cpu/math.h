#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "core/dtype.h"

// Elementary functions that the compiler can vectorise: no branches, no calls. double takes the
// library's. Largest errors against the exact values stand beside each and are tested.

namespace samba {
namespace {

/// e^x; relative error below 3e-7 (2 ulp) on [-87, 88], 0 below, infinity above.
[[gnu::always_inline]] inline float fast_exp(float x) {
  constexpr float kLog2e = 1.44269504088896341f;
  // ln 2 in two parts: the first has few enough bits that n * kLn2High is exact.
  constexpr float kLn2High = 0.693359375f;
  constexpr float kLn2Low = -2.12194440e-4f;
  const float clamped = x < -87.33654f ? -87.33654f : (x > 88.72283f ? 88.72283f : x);
  // Adding 1.5 * 2^23 rounds to the nearest integer, which then stands in the low bits.
  const float shifted = clamped * kLog2e + 12582912.0f;
  const float n = shifted - 12582912.0f;
  const float r = (clamped - n * kLn2High) - n * kLn2Low;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  // 2^n in two factors, since n may be 128.
  const auto exponent =
      static_cast<std::int32_t>(std::bit_cast<std::uint32_t>(shifted) - 0x4b400000u);
  const std::int32_t half = exponent >> 1;
  const float a = std::bit_cast<float>(static_cast<std::uint32_t>(half + 127) << 23);
  const float b = std::bit_cast<float>(static_cast<std::uint32_t>(exponent - half + 127) << 23);
  const float value = p * a * b;
  return x < -87.33654f ? 0.0f : (x > 88.72283f ? HUGE_VALF : value);
}
[[gnu::always_inline]] inline double fast_exp(double x) {
  return std::exp(x);
}

/// 1 / (1 + e^-x)
template <class T>
[[gnu::always_inline]] inline T sigmoid(T x) {
  return T{1} / (T{1} + fast_exp(-x));
}

/// x / (1 + e^-x)
template <class T>
[[gnu::always_inline]] inline T silu(T x) {
  return x * sigmoid(x);
}

/// d silu(x) / dx
template <class T>
[[gnu::always_inline]] inline T silu_slope(T x) {
  const T s = sigmoid(x);
  return s * (T{1} + x * (T{1} - s));
}

}  // namespace
}  // namespace samba
