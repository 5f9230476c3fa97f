#pragma once

#include "core/matrix.h"
#include "kernels/cpu/tier.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

// Products of small matrices that lie in the caches: the tile of sums that one loop keeps in
// registers. Attention and linear attention build theirs from it.

namespace samba {
namespace {

constexpr Index kVectorBytes = kTier >= Tier::avx512 ? 64 : kTier == Tier::avx2 ? 32 : 16;
// Rows x vectors of sums that fit the registers beside their operands.
constexpr int kTileRows = kTier >= Tier::avx512 ? 8 : 4;
constexpr int kTileVectors = kTier == Tier::plain ? 2 : 3;

/// A vector of sums over E.
template <class E>
struct Register {
  typedef E Type __attribute__((vector_size(kVectorBytes), may_alias));
};

/// How tiles of a model of type T are kept and multiplied. An Item is what one broadcast reads: an
/// element, or two that belong to neighbouring terms of a sum.
template <class T>
struct Tiling {
  using Element = Exact<T>;
  using Vector = typename Register<Exact<T>>::Type;
  using Item = Exact<T>;
  using Items = Vector;
  static constexpr Index kTerms = 1;
  static constexpr Index kPerVector = kVectorBytes / static_cast<Index>(sizeof(Exact<T>));
  static constexpr Index kLanes = kTileVectors * kPerVector;

  [[gnu::always_inline]] static void add_product(Vector& sum, Item a, const Items& b) {
    sum += a * b;
  }
};

#if defined(__AVX512BF16__)
template <>
struct Tiling<Bf16> {
  using Element = Bf16;
  using Vector = Register<float>::Type;
  typedef std::uint32_t Item __attribute__((may_alias));
  using Items = Register<std::uint32_t>::Type;
  static constexpr Index kTerms = 2;
  static constexpr Index kPerVector = 16;
  static constexpr Index kLanes = kTileVectors * kPerVector;

  [[gnu::always_inline]] static void add_product(Vector& sum, Item a, const Items& b) {
    const __m512i both = _mm512_set1_epi32(static_cast<int>(a));
    sum = (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)both, (__m512bh)b);
  }
};
#endif

/// sums[r][n] = sum over t of a[r][t] b[t][n], for kTileRows rows and the vectors of one register
/// tile. Vectors in memory lie at multiples of their size.
template <class T>
struct Product {
  Index terms;  ///< in items
  const typename Tiling<T>::Item* a;
  Index a_row;
  Index a_term;
  const typename Tiling<T>::Items* b;
  Index b_term;
  typename Tiling<T>::Vector* sums;
  Index sums_row;
};

/// What sums begin as: zero, what they are, or that times a factor for each vector.
enum class Start { zero, kept, scaled };

template <class T, int kVectors, Start kStart>
[[gnu::noinline]] void multiply(
    const Product<T>& p, [[maybe_unused]] const typename Tiling<T>::Vector* factor = nullptr) {
  typename Tiling<T>::Vector sums[kTileRows][kVectors] = {};
  if constexpr (kStart != Start::zero)
#pragma GCC unroll 16
    for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 4
      for (int n = 0; n < kVectors; ++n) {
        sums[r][n] = p.sums[r * p.sums_row + n];
        if constexpr (kStart == Start::scaled) sums[r][n] *= factor[n];
      }
  const auto* a = p.a;
  const auto* b = p.b;
  const Index a_row = p.a_row, a_term = p.a_term, b_term = p.b_term;
#pragma GCC unroll 1
  for (Index t = p.terms; t > 0; --t, a += a_term, b += b_term)
#pragma GCC unroll 16
    for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 4
      for (int n = 0; n < kVectors; ++n) Tiling<T>::add_product(sums[r][n], a[r * a_row], b[n]);
  auto* to = p.sums;
  const Index to_row = p.sums_row;
#pragma GCC unroll 16
  for (int r = 0; r < kTileRows; ++r, to += to_row)
#pragma GCC unroll 4
    for (int n = 0; n < kVectors; ++n) to[n] = sums[r][n];
}

/// The same for 1 to kTileVectors vectors.
template <class T, Start kStart>
void multiply_tile(const Product<T>& p, Index vectors,
                   const typename Tiling<T>::Vector* factor = nullptr) {
  static_assert(kTileVectors <= 3);
  if constexpr (kTileVectors > 2)
    if (vectors == 3) return multiply<T, 3, kStart>(p, factor);
  if (vectors == 2) return multiply<T, 2, kStart>(p, factor);
  return multiply<T, 1, kStart>(p, factor);
}

}  // namespace
}  // namespace samba
