#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "core/dtype.h"

#if defined(__AVX2__)
// GCC 12 warns of the deliberately undefined registers in its own header.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

// One vector register of the tier. Included by the sources of this folder only (tier.h).

namespace samba {
namespace {

/// kCount numbers of type T. Beside T itself, bf16 can be loaded (widened) and stored (rounded to
/// the nearest, ties to even). load_first and store_first touch the first `count` elements only,
/// none where count is negative; the others are loaded as 0.
template <class T>
struct Lanes;

#if defined(__AVX512F__)

/// The first `count` of n bits; none where count is negative, all where it is n or more.
[[gnu::always_inline]] inline std::uint32_t first_bits(Index count, Index n) {
  return static_cast<std::uint32_t>((std::uint64_t{1} << std::clamp<Index>(count, 0, n)) - 1);
}

template <>
struct Lanes<float> {
  static constexpr Index kCount = 16;
  __m512 v;

  static Lanes all(float x) { return {_mm512_set1_ps(x)}; }
  static Lanes load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Lanes load(const Bf16* p) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  /// Takes the even and the odd ones of 2 kCount numbers apart, at less cost than two loads.
  static void load_pairs(const Bf16* p, Lanes& even, Lanes& odd) {
    const __m512i both = _mm512_loadu_si512(p);
    even = {_mm512_castsi512_ps(_mm512_slli_epi32(both, 16))};
    odd = {_mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(-0x10000)))};
  }
  static Lanes load_first(const float* p, Index count) {
    return {_mm512_maskz_loadu_ps(static_cast<__mmask16>(first_bits(count, 16)), p)};
  }
  static Lanes load_first(const Bf16* p, Index count) {
    return widen(_mm256_maskz_loadu_epi16(static_cast<__mmask16>(first_bits(count, 16)), p));
  }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  void store(Bf16* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), rounded()); }
  void store_first(float* p, Index count) const {
    _mm512_mask_storeu_ps(p, static_cast<__mmask16>(first_bits(count, 16)), v);
  }
  void store_first(Bf16* p, Index count) const {
    _mm256_mask_storeu_epi16(p, static_cast<__mmask16>(first_bits(count, 16)), rounded());
  }
  /// a b + c, rounded once.
  static Lanes multiply_add(Lanes a, Lanes b, Lanes c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }

 private:
  static Lanes widen(__m256i x) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16))};
  }
  __m256i rounded() const {
#if defined(__AVX512BF16__)
    return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v));
#else
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i near = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 is_nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    const __m512i high = _mm512_mask_or_epi32(near, is_nan, bits, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(high, 16));
#endif
  }
};

#elif defined(__AVX2__)

template <>
struct Lanes<float> {
  static constexpr Index kCount = 8;
  __m256 v;

  static Lanes all(float x) { return {_mm256_set1_ps(x)}; }
  static Lanes load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static Lanes load(const Bf16* p) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16))};
  }
  static void load_pairs(const Bf16* p, Lanes& even, Lanes& odd) {
    const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    even = {_mm256_castsi256_ps(_mm256_slli_epi32(both, 16))};
    odd = {_mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(-0x10000)))};
  }
  static Lanes load_first(const float* p, Index count) {
    return {_mm256_maskload_ps(p, first(count))};
  }
  static Lanes load_first(const Bf16* p, Index count) {
    if (count >= kCount) return load(p);
    Bf16 whole[kCount] = {};
    for (Index i = 0; i < std::min(count, kCount); ++i) whole[i] = p[i];
    return load(whole);
  }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
  void store(Bf16* p) const {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i near = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i nan = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(near, nan, is_nan), 16);
    _mm_storeu_si128(
        reinterpret_cast<__m128i*>(p),
        _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1)));
  }
  void store_first(float* p, Index count) const { _mm256_maskstore_ps(p, first(count), v); }
  void store_first(Bf16* p, Index count) const {
    if (count >= kCount) return store(p);
    Bf16 whole[kCount];
    store(whole);
    for (Index i = 0; i < std::min(count, kCount); ++i) p[i] = whole[i];
  }
  static Lanes multiply_add(Lanes a, Lanes b, Lanes c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }

 private:
  static __m256i first(Index count) {
    const int n = static_cast<int>(std::clamp<Index>(count, 0, kCount));
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
};

#else

template <class T>
struct Lanes {
  static constexpr Index kCount = 16 / sizeof(T);
  using Register [[gnu::vector_size(16)]] = T;
  Register v;

  static Lanes all(T x) { return {x - Register{}}; }
  template <class From>
  static Lanes load(const From* p) {
    return load_first(p, kCount);
  }
  static void load_pairs(const Bf16* p, Lanes& even, Lanes& odd) {
    Lanes first{}, second{};
    for (Index i = 0; i < kCount; ++i) {
      first.v[i] = static_cast<T>(p[2 * i]);
      second.v[i] = static_cast<T>(p[2 * i + 1]);
    }
    even = first, odd = second;
  }
  template <class From>
  static Lanes load_first(const From* p, Index count) {
    Lanes lanes{};
    for (Index i = 0; i < std::min(count, kCount); ++i) lanes.v[i] = static_cast<T>(p[i]);
    return lanes;
  }
  template <class To>
  void store(To* p) const {
    store_first(p, kCount);
  }
  template <class To>
  void store_first(To* p, Index count) const {
    for (Index i = 0; i < std::min(count, kCount); ++i) p[i] = static_cast<To>(v[i]);
  }
  static Lanes multiply_add(Lanes a, Lanes b, Lanes c) { return {a.v * b.v + c.v}; }
};

#endif

}  // namespace
}  // namespace samba
