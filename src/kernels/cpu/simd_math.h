#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "kernels/cpu/simd.h"

// Arithmetic and elementary functions on registers of numbers. Errors are relative, the
// largest found by trying; the plain tier takes the library's functions, lane by lane.

namespace samba {
namespace {

template <class T>
[[gnu::always_inline]] inline Lanes<T> operator+(Lanes<T> a, Lanes<T> b) {
  return {a.v + b.v};
}
template <class T>
[[gnu::always_inline]] inline Lanes<T> operator-(Lanes<T> a, Lanes<T> b) {
  return {a.v - b.v};
}
template <class T>
[[gnu::always_inline]] inline Lanes<T> operator*(Lanes<T> a, Lanes<T> b) {
  return {a.v * b.v};
}
template <class T>
[[gnu::always_inline]] inline Lanes<T> operator/(Lanes<T> a, Lanes<T> b) {
  return {a.v / b.v};
}

/// x > bound ? above : below, lane by lane.
template <class T>
[[gnu::always_inline]] inline Lanes<T> where_above(Lanes<T> x, Lanes<T> bound, Lanes<T> above,
                                                   Lanes<T> below) {
  return {x.v > bound.v ? above.v : below.v};
}
template <class T>
[[gnu::always_inline]] inline Lanes<T> where_above(Lanes<T> x, T bound, Lanes<T> above,
                                                   Lanes<T> below) {
  return where_above(x, Lanes<T>::all(bound), above, below);
}

/// a > b ? a : b, so b where one of them is no number.
template <class T>
[[gnu::always_inline]] inline Lanes<T> larger(Lanes<T> a, Lanes<T> b) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float>) return {_mm512_max_ps(a.v, b.v)};
#elif defined(__AVX2__)
  if constexpr (std::is_same_v<T, float>) return {_mm256_max_ps(a.v, b.v)};
#endif
  return where_above(a, b, a, b);
}

/// The sum of the lanes, always in the same order.
template <class T>
[[gnu::always_inline]] inline T sum(Lanes<T> x) {
  T lanes[Lanes<T>::kCount];
  x.store(lanes);
  for (Index half = Lanes<T>::kCount / 2; half > 0; half /= 2)
    for (Index i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}

#if defined(__AVX2__)

// 2^x = 2^k 2^(j / m) 2^r: k whole, the middle factor from a table that fits the registers, and the
// last a polynomial in |r| <= 1 / 2m that is 1 at 0, so that a decay close to 1 keeps its distance.
// Adding 1.5 * 2^23 / m leaves j in the lowest bits of the sum.

#if defined(__AVX512F__)

alignas(64) constexpr float kExp2Table[32] = {
    1.0f,       1.0218972f, 1.0442737f,  1.0671404f, 1.0905077f, 1.1143868f, 1.1387886f,
    1.1637249f, 1.1892071f, 1.2152474f,  1.2418578f, 1.2690509f, 1.2968396f, 1.3252367f,
    1.3542556f, 1.3839099f, 1.41421354f, 1.4451808f, 1.4768262f, 1.5091645f, 1.5422108f,
    1.5759809f, 1.6104903f, 1.6457555f,  1.6817929f, 1.7186193f, 1.7562522f, 1.7947091f,
    1.834008f,  1.8741677f, 1.9152066f,  1.9571441f};

/// 2^x for |x| < 1e26; error below 1.7e-7, infinity and 0 where the result is out of range.
[[gnu::always_inline]] inline Lanes<float> exp2(Lanes<float> x) {
  const __m512 magic = _mm512_set1_ps(393216.0f);
  const __m512 shifted = x.v + magic;
  const __m512 n = shifted - magic;
  const __m512 r = x.v - n;
  const __m512i j = _mm512_castps_si512(shifted);
  const __m512 middle =
      _mm512_permutex2var_ps(_mm512_load_ps(kExp2Table), j, _mm512_load_ps(kExp2Table + 16));
  const __m512 slope = _mm512_set1_ps(0.24022649f) * r + _mm512_set1_ps(0.6931573f);
  // 2^r - 1 is small: its product is rounded far below the sum's last digit.
  return {_mm512_scalef_ps(middle * (slope * r) + middle, n)};
}

#else

/// The bits of 2^(j / 8), less j / 8 in the exponent's place: adding k + j / 8 there adds k.
alignas(32) constexpr std::uint32_t kExp2Table[8] = {0x3f800000,
                                                     0x3f8b95c2 - 0x100000,
                                                     0x3f9837f0 - 0x200000,
                                                     0x3fa5fed7 - 0x300000,
                                                     0x3fb504f3 - 0x400000,
                                                     0x3fc5672a - 0x500000,
                                                     0x3fd744fd - 0x600000,
                                                     0x3feac0c7 - 0x700000};

/// 2^x for x below 127; error below 2e-7, 2^-126 instead of anything smaller.
[[gnu::always_inline]] inline Lanes<float> exp2(Lanes<float> x) {
  const __m256 magic = _mm256_set1_ps(1572864.0f);
  // In this order max hands on a NaN.
  const __m256 clamped = _mm256_max_ps(_mm256_set1_ps(-126.0f), x.v);
  const __m256 shifted = clamped + magic;
  const __m256 r = clamped - (shifted - magic);
  const __m256i j = _mm256_castps_si256(shifted);
  const __m256i table = _mm256_load_si256(reinterpret_cast<const __m256i*>(kExp2Table));
  const __m256i front =
      _mm256_add_epi32(_mm256_permutevar8x32_epi32(table, j), _mm256_slli_epi32(j, 20));
  __m256 last = _mm256_set1_ps(0.055496223f) * r + _mm256_set1_ps(0.24025764f);
  last = last * r + _mm256_set1_ps(0.69314724f);
  last = last * r + _mm256_set1_ps(1.0f);
  return {last * _mm256_castsi256_ps(front)};
}

#endif

/// e^x for x below 87; error below 3e-7 + |x| 6e-8, the latter what rounding x has cost already.
[[gnu::always_inline]] inline Lanes<float> exp(Lanes<float> x) {
  return exp2(x * Lanes<float>::all(1.44269504f));
}

/// log(1 + x) for x in [0, 1]; error below 2e-7.
[[gnu::always_inline]] inline Lanes<float> log1p(Lanes<float> x) {
  const auto all = [](float value) { return Lanes<float>::all(value); };
  // Pairs of coefficients, then pairs of pairs: a chain would take its length in latencies.
  const auto line = [&](float at_0, float at_1) { return all(at_1) * x + all(at_0); };
  const auto x2 = x * x, x4 = x2 * x2;
  const auto low = line(0.33321324f, -0.24857163f) * x2 + all(-0.49999648f) * x;
  const auto high = line(0.07920454f, -0.030065792f) * x2 + line(0.19153655f, -0.13753803f);
  const auto p = (all(0.0053648246f) * x4 + high) * x4 + low;
  return p * x + x;
}

/// 1 / x for x from 1 to 2^126; error below 2e-7.
[[gnu::always_inline]] inline Lanes<float> reciprocal(Lanes<float> x) {
#if defined(__AVX512F__)
  // A division occupies a unit for as long as all of this takes twice over.
  const Lanes<float> guess{_mm512_rcp14_ps(x.v)};
  return guess + guess * (Lanes<float>::all(1) - x * guess);
#else
  return Lanes<float>::all(1) / x;
#endif
}

#else

template <class T, class F>
[[gnu::always_inline]] inline Lanes<T> lane_by_lane(Lanes<T> x, F&& f) {
  for (Index i = 0; i < Lanes<T>::kCount; ++i) x.v[i] = f(x.v[i]);
  return x;
}

template <class T>
[[gnu::always_inline]] inline Lanes<T> exp2(Lanes<T> x) {
  return lane_by_lane(x, [](T value) { return std::exp2(value); });
}
template <class T>
[[gnu::always_inline]] inline Lanes<T> exp(Lanes<T> x) {
  return lane_by_lane(x, [](T value) { return std::exp(value); });
}
template <class T>
[[gnu::always_inline]] inline Lanes<T> log1p(Lanes<T> x) {
  return lane_by_lane(x, [](T value) { return std::log1p(value); });
}
template <class T>
[[gnu::always_inline]] inline Lanes<T> reciprocal(Lanes<T> x) {
  return Lanes<T>::all(1) / x;
}

#endif

/// log(1 + e^x), and x itself above 20.
template <class T>
[[gnu::always_inline]] inline Lanes<T> softplus(Lanes<T> x) {
  const Lanes<T> zero = Lanes<T>::all(0);
  const Lanes<T> abs = larger(zero - x, x);
  const Lanes<T> soft = larger(zero, x) + log1p(exp(zero - abs));
  // In f32 the two are the same above 20.
  return std::is_same_v<T, float> ? soft : where_above(x, T{20}, x, soft);
}

/// 1 / (1 + e^-x)
template <class T>
[[gnu::always_inline]] inline Lanes<T> sigmoid(Lanes<T> x) {
  // Below, where the result is as good as 0, e^-x would leave the range of f32.
  const Lanes<T> bounded = larger(Lanes<T>::all(-80), x);
  return reciprocal(Lanes<T>::all(1) + exp(Lanes<T>::all(0) - bounded));
}

/// d softplus(x) / dx
template <class T>
[[gnu::always_inline]] inline Lanes<T> softplus_slope(Lanes<T> x) {
  const Lanes<T> slope = sigmoid(x);
  return std::is_same_v<T, float> ? slope : where_above(x, T{20}, Lanes<T>::all(1), slope);
}

}  // namespace
}  // namespace samba
