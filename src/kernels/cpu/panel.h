#pragma once

#include "kernels/cpu/simd.h"
#include "kernels/cpu/tier.h"

// Operands of matrix products and the panels that the inner loops read them from.

namespace samba {
namespace {

/// One factor of a product that sums over k. Its element (i, k) is data[i * stride + k] when
/// `sums_along_rows`, else data[k * stride + i].
template <class T>
struct Operand {
  const T* data;
  Index stride;
  bool sums_along_rows;

  /// The same factor from its element (i, k) on.
  Operand from(Index i, Index k) const {
    return {data + (sums_along_rows ? i * stride + k : k * stride + i), stride, sums_along_rows};
  }
};

/// How elements of type T enter a sum: one by one as Exact<T>, or, where the machine multiplies
/// pairs of bf16 (VDPBF16PS), two neighbours k and k + 1 in the bits of one float. Such a number is
/// called a unit.
template <class T>
struct Units {
  using Lane = Lanes<Exact<T>>;
  static constexpr Index kElements = 1;

  /// The units of the first `count` elements of a row, as many as a register holds, then 0.
  static Lane along(const T* row, Index count) { return Lane::load_first(row, count); }
  /// A unit of each of `count` columns.
  static Lane across(const T* row, const T*, Index count) { return Lane::load_first(row, count); }
  static Lane multiply_add(Lane a, Lane b, Lane c) { return Lane::multiply_add(a, b, c); }
};

#if defined(__AVX512BF16__)
template <>
struct Units<Bf16> {
  using Lane = Lanes<float>;
  static constexpr Index kElements = 2;

  static Lane along(const Bf16* row, Index count) {
    return {_mm512_castsi512_ps(_mm512_maskz_loadu_epi16(first_bits(count, 32), row))};
  }
  /// `next` is the row behind, null behind the last.
  static Lane across(const Bf16* row, const Bf16* next, Index count) {
    const auto first = static_cast<__mmask16>(first_bits(count, 16));
    const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first, row));
    if (next == nullptr) return {_mm512_castsi512_ps(low)};
    const __m512i high = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first, next));
    return {_mm512_castsi512_ps(_mm512_or_si512(low, _mm512_slli_epi32(high, 16)))};
  }
  static Lane multiply_add(Lane a, Lane b, Lane c) {
    return {
        _mm512_dpbf16_ps(c.v, reinterpret_cast<__m512bh>(a.v), reinterpret_cast<__m512bh>(b.v))};
  }
};
#endif

/// Units in a sum over `depth` elements.
template <class T>
constexpr Index units_of(Index depth) {
  return (depth + Units<T>::kElements - 1) / Units<T>::kElements;
}

#if defined(__AVX512F__)

[[gnu::always_inline]] inline void transpose(Lanes<float> (&x)[16]) {
  __m512 t[16];
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    const __m512 a = _mm512_unpacklo_ps(x[i].v, x[i + 1].v);
    const __m512 b = _mm512_unpackhi_ps(x[i].v, x[i + 1].v);
    const __m512 c = _mm512_unpacklo_ps(x[i + 2].v, x[i + 3].v);
    const __m512 d = _mm512_unpackhi_ps(x[i + 2].v, x[i + 3].v);
    t[i] = _mm512_shuffle_ps(a, c, 0x44);
    t[i + 1] = _mm512_shuffle_ps(a, c, 0xee);
    t[i + 2] = _mm512_shuffle_ps(b, d, 0x44);
    t[i + 3] = _mm512_shuffle_ps(b, d, 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512 a = _mm512_shuffle_f32x4(t[i], t[i + 4], 0x88);
    const __m512 b = _mm512_shuffle_f32x4(t[i], t[i + 4], 0xdd);
    const __m512 c = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0x88);
    const __m512 d = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0xdd);
    x[i].v = _mm512_shuffle_f32x4(a, c, 0x88);
    x[i + 4].v = _mm512_shuffle_f32x4(b, d, 0x88);
    x[i + 8].v = _mm512_shuffle_f32x4(a, c, 0xdd);
    x[i + 12].v = _mm512_shuffle_f32x4(b, d, 0xdd);
  }
}

#elif defined(__AVX2__)

[[gnu::always_inline]] inline void transpose(Lanes<float> (&x)[8]) {
  __m256 t[8];
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    const __m256 a = _mm256_unpacklo_ps(x[i].v, x[i + 1].v);
    const __m256 b = _mm256_unpackhi_ps(x[i].v, x[i + 1].v);
    const __m256 c = _mm256_unpacklo_ps(x[i + 2].v, x[i + 3].v);
    const __m256 d = _mm256_unpackhi_ps(x[i + 2].v, x[i + 3].v);
    t[i] = _mm256_shuffle_ps(a, c, 0x44);
    t[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
    t[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
    t[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    x[i].v = _mm256_permute2f128_ps(t[i], t[i + 4], 0x20);
    x[i + 4].v = _mm256_permute2f128_ps(t[i], t[i + 4], 0x31);
  }
}

#else

template <class T>
void transpose(Lanes<T> (&x)[Lanes<T>::kCount]) {
  for (Index i = 0; i < Lanes<T>::kCount; ++i)
    for (Index j = 0; j < i; ++j) {
      const T kept = x[i].v[j];
      x[i].v[j] = x[j].v[i];
      x[j].v[i] = kept;
    }
}

#endif

/// Stores the units of the columns from i on of a panel's row, the first of the
/// last `left`. What a register holds beyond a narrow panel may spill into the rows that are
/// written later, but not behind the last.
template <class Lane, class Number>
[[gnu::always_inline]] inline void store_units(Lane units, Number* row, Index width, Index i,
                                               Index left) {
  if (width - i >= Lane::kCount || (width < Lane::kCount && left * width >= Lane::kCount))
    units.store(row + i);
  else
    units.store_first(row + i, width - i);
}

template <class T>
void pack_along(Exact<T>* to, Index width, Operand<T> from, Index count, Index depth) {
  using Lane = typename Units<T>::Lane;
  constexpr Index kLanes = Lane::kCount, kElements = Units<T>::kElements;
  constexpr Index kPrefetchBytes = 512;
  const Index units = units_of<T>(depth);
  for (Index i = 0; i < width; i += kLanes) {
    const Index rows = std::clamp<Index>(count - i, 0, kLanes);
    for (Index u = 0; u < units; u += kLanes) {
      Lane block[kLanes];
      const Index left = depth - u * kElements;
      const T* row = from.data + i * from.stride + u * kElements;
#pragma GCC unroll 16
      for (Index r = 0; r < kLanes; ++r)
        block[r] = Units<T>::along(r < rows ? row + r * from.stride : row, r < rows ? left : 0);
      for (Index r = 0; r < rows; ++r)
        __builtin_prefetch(reinterpret_cast<const char*>(row + r * from.stride) + kPrefetchBytes, 0,
                           2);
      transpose(block);
      Exact<T>* panel = to + u * width;
#pragma GCC unroll 16
      for (Index r = 0; r < kLanes; ++r)
        if (r < units - u) store_units(block[r], panel + r * width, width, i, units - u - r);
    }
  }
}

/// pack_along for a panel of one row, which lies there as it is.
template <class T>
void pack_row(Exact<T>* to, const T* row, Index depth) {
  using Lane = typename Units<T>::Lane;
  for (Index u = 0; u < units_of<T>(depth); u += Lane::kCount)
    Units<T>::along(row + u * Units<T>::kElements, depth - u * Units<T>::kElements)
        .store_first(to + u, units_of<T>(depth) - u);
}

template <class T>
void pack_across(Exact<T>* to, Index width, Operand<T> from, Index count, Index depth) {
  constexpr Index kElements = Units<T>::kElements;
  constexpr Index kAhead = 16;  // rows that memory is asked for ahead
  const Index units = units_of<T>(depth);
  for (Index u = 0; u < units; ++u) {
    const T* row = from.data + u * kElements * from.stride;
    const T* next = (u + 1) * kElements <= depth ? row + from.stride : nullptr;
    __builtin_prefetch(row + kAhead * from.stride, 0, 2);
    for (Index i = 0; i < width; i += Units<T>::Lane::kCount)
      store_units(Units<T>::across(row + i, next == nullptr ? next : next + i, count - i),
                  to + u * width, width, i, units - u);
  }
}

/// Writes a panel: `width` units of the first elements k of `count` i's, then those of the next.
/// Behind count and depth it is filled up with zeros.
template <class T>
void pack_panel(Exact<T>* to, Index width, Operand<T> from, Index count, Index depth) {
  if (from.sums_along_rows && width == 1)
    pack_row(to, from.data, depth);
  else if (from.sums_along_rows)
    pack_along(to, width, from, count, depth);
  else
    pack_across(to, width, from, count, depth);
}

}  // namespace
}  // namespace samba
