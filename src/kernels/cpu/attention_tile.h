#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "core/matrix.h"
#include "kernels/attention.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/tier.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

// What attention and its backward share: tiles, how they are multiplied, and how rows become tiles.
//
// A tile is a block of keys by a few vectors of lanes; a lane is one query of one head. With
// queries in lanes the softmax needs no sums across a vector, and keys and values are read as they
// lie, one broadcast at a time. Heads that share keys stand in neighbouring lanes.
//
// Blocks begin at multiples of kBlock of the position in the sequence, and a masked weight is
// exactly 0, so what is added to what, in which order, does not depend on where a span was cut.

namespace samba {
namespace {

constexpr Index kVectorBytes = kTier == Tier::avx512 ? 64 : kTier == Tier::avx2 ? 32 : 16;
// Rows x vectors of sums that fit the registers beside their operands: for vectors of lanes, and
// for pairs of vectors of head columns.
constexpr int kTileRows = kTier == Tier::avx512 ? 8 : 4;
constexpr int kTileVectors = kTier == Tier::plain ? 2 : 3;
constexpr int kWideRows = kTier == Tier::avx512 ? 12 : kTier == Tier::avx2 ? 6 : 4;
constexpr int kWideVectors = 2;
/// Keys of a block: a multiple of both counts of rows.
constexpr Index kBlock = 96;

constexpr Index round_up(Index x, Index to) {
  return (x + to - 1) / to * to;
}

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

/// Columns of a head in a tile: filled up with zeros to whole registers.
template <class T>
constexpr Index padded(Index width) {
  return round_up(width, kTileRows > Tiling<T>::kPerVector ? kTileRows : Tiling<T>::kPerVector);
}

/// sums[r][n] = sum over t of a[r][t] b[t][n], for the rows and vectors of one register tile.
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

/// Sums begin as start(r, n) says.
template <class T, int kRows, int kVectors, class Start>
[[gnu::always_inline]] inline void multiply(const Product<T>& p, Start&& start) {
  typename Tiling<T>::Vector sums[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int n = 0; n < kVectors; ++n) sums[r][n] = start(r, n);
  const auto* a = p.a;
  const auto* b = p.b;
#pragma GCC unroll 1
  for (Index t = 0; t < p.terms; ++t, a += p.a_term, b += p.b_term)
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int n = 0; n < kVectors; ++n) Tiling<T>::add_product(sums[r][n], a[r * p.a_row], b[n]);
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int n = 0; n < kVectors; ++n) p.sums[r * p.sums_row + n] = sums[r][n];
}

template <class T, int kVectors>
[[gnu::noinline]] void multiply_lanes(const Product<T>& p,
                                      const typename Tiling<T>::Vector* factor) {
  if (factor == nullptr)
    multiply<T, kTileRows, kVectors>(p, [](int, int) { return typename Tiling<T>::Vector{}; });
  else
    multiply<T, kTileRows, kVectors>(
        p, [&](int r, int n) { return p.sums[r * p.sums_row + n] * factor[n]; });
}

/// kTileRows rows of `vectors` vectors of lanes. With a factor sums are added to sums * factor.
template <class T>
void multiply_lanes(const Product<T>& p, Index vectors, const typename Tiling<T>::Vector* factor) {
  static_assert(kTileVectors <= 3);
  if constexpr (kTileVectors > 2)
    if (vectors == 3) return multiply_lanes<T, 3>(p, factor);
  if (vectors == 2) return multiply_lanes<T, 2>(p, factor);
  return multiply_lanes<T, 1>(p, factor);
}

template <class T, int kVectors>
[[gnu::noinline]] void multiply_columns(const Product<T>& p) {
  multiply<T, kWideRows, kVectors>(p, [&](int r, int n) { return p.sums[r * p.sums_row + n]; });
}

/// Adds to kWideRows rows of `vectors` vectors of head columns.
template <class T>
void multiply_columns(Product<T> p, Index vectors) {
  for (; vectors >= kWideVectors; vectors -= kWideVectors) {
    multiply_columns<T, kWideVectors>(p);
    p.b += kWideVectors;
    p.sums += kWideVectors;
  }
  if (vectors > 0) multiply_columns<T, 1>(p);
}

/// 2^x for x <= 0; relative error below 3e-7, and below 2^-126 that.
template <class Vector>
[[gnu::always_inline]] inline Vector power_of_two(Vector x) {
  if constexpr (sizeof(x[0]) == sizeof(double)) {
    for (Index i = 0; i < kVectorBytes / 8; ++i) x[i] = __builtin_exp2(x[i]);
    return x;
  } else {
    typedef std::int32_t Bits __attribute__((vector_size(kVectorBytes)));
    const Vector lowest = Vector{} - 126.0f;
    x = x < lowest ? lowest : x;
    // Adding 1.5 * 2^23 rounds to the nearest integer, which then stands in the low bits.
    const Vector shifted = x + 12582912.0f;
    const Vector f = x - (shifted - 12582912.0f);
    // Minimax on [-1/2, 1/2] among those that are exactly 1 at 0.
    Vector p = f * 0.0013264726f + 0.0096715127f;
    p = p * f + 0.0555073375f;
    p = p * f + 0.2402224208f;
    p = p * f + 0.6931469776f;
    p = p * f + 1.0f;
    const Bits n = (Bits)shifted - 0x4b400000;
    return p * (Vector)((n + 127) << 23);  // a product, so that a NaN stays one
  }
}

/// The keys that one span sees and the queries that it asks, in units of blocks and tiles.
struct Piece {
  Span span;
  Index first_key;    ///< position of the first key that is there
  Index first_block;  ///< its block; block b holds the positions from kBlock * b on
  Index blocks;       ///< number of blocks
  Index packed;       ///< number of blocks of the pieces before
  Index tiles;        ///< number of tiles of one kv head
  Index tile;         ///< number of tiles of the pieces before
};

/// An array of `count` plain values in the stream's memory.
template <class Value>
struct Array {
  Matrix memory;
  Index count = 0;
  Array(CpuStream& stream, Index n)
      : memory(stream, DType::i32, n > 0 ? n : 1, (static_cast<Index>(sizeof(Value)) + 3) / 4),
        count(n) {}
  Value& operator[](Index i) const { return reinterpret_cast<Value*>(memory.view().data)[i]; }
};

/// The piece that holds the i-th of what `before` counts.
inline const Piece& piece_of(const Array<Piece>& pieces, Index i, Index Piece::* before) {
  Index low = 0, high = pieces.count - 1;
  while (low < high) {
    const Index middle = (low + high + 1) / 2;
    if (pieces[middle].*before <= i)
      low = middle;
    else
      high = middle - 1;
  }
  return pieces[low];
}

inline void describe(Piece& piece, const Piece* before, Index group, Index lanes) {
  const Span& span = piece.span;
  const Index last_block = (span.position + span.length - 1) / kBlock;
  piece.first_block = piece.first_key / kBlock;
  piece.blocks = last_block - piece.first_block + 1;
  piece.tiles = (span.length * group + lanes - 1) / lanes;
  piece.packed = before == nullptr ? 0 : before->packed + before->blocks;
  piece.tile = before == nullptr ? 0 : before->tile + before->tiles;
}

template <class To, class From>
[[gnu::always_inline]] inline To converted(From x) {
  if constexpr (std::is_same_v<To, From>)
    return x;
  else
    return static_cast<To>(x);
}

/// The lanes of one tile: `count` queries, each of one head, and the keys that each sees.
template <class T>
struct Lanes {
  static constexpr Index kLanes = Tiling<T>::kLanes;
  Index count;
  Index vectors;
  Index row[kLanes];     ///< in the batch
  Index column[kLanes];  ///< of the head's first element in q and y
  Index first[kLanes];   ///< position of the first key
  Index last[kLanes];    ///< of the last; before the first in lanes without a query

  Lanes(const Piece& piece, const op::Heads& heads, Index window, Index kv_head, Index tile) {
    const Index group = heads.heads / heads.kv_heads;
    const Index begin = tile * kLanes;
    count = std::min(kLanes, piece.span.length * group - begin);
    vectors = (count + Tiling<T>::kPerVector - 1) / Tiling<T>::kPerVector;
    for (Index i = 0; i < kLanes; ++i) {
      const Index query = std::min(begin + i, piece.span.length * group - 1) / group;
      row[i] = piece.span.first + query;
      column[i] = (kv_head * group + (begin + i) % group) * heads.width;
      last[i] = piece.span.position + query;
      first[i] = std::max(piece.first_key, last[i] - window + 1);
      if (i >= count) last[i] = first[i] - 1;
    }
  }
  Index first_key() const { return first[0]; }
  Index last_key() const { return last[count - 1]; }
};

/// Which lanes see the keys of one block.
template <class T>
struct Sight {
  using Vector = typename Tiling<T>::Vector;
  static constexpr Index kPerVector = Tiling<T>::kPerVector;
  Index begin;  ///< first key of the block that any lane sees, rounded down to register tiles
  Index end;    ///< behind the last one, rounded up
  bool all;     ///< every lane sees every key
  Vector first[kTileVectors];
  Vector last[kTileVectors];

  Sight(const Lanes<T>& lanes, Index block, Index rows) {
    const Index base = block * kBlock;
    begin = std::max<Index>(lanes.first_key() - base, 0) / rows * rows;
    end = round_up(std::min<Index>(lanes.last_key() - base + 1, kBlock), rows);
    all = lanes.count == lanes.vectors * kPerVector && lanes.last[0] >= base + kBlock - 1 &&
          lanes.first[lanes.count - 1] <= base;
    if (all) return;
    for (Index i = 0; i < lanes.vectors * kPerVector; ++i) {
      const Index low = std::clamp<Index>(lanes.first[i] - base, 0, kBlock);
      const Index high = std::clamp<Index>(lanes.last[i] - base, -1, kBlock);
      first[i / kPerVector][i % kPerVector] = static_cast<Exact<T>>(low);
      last[i / kPerVector][i % kPerVector] = static_cast<Exact<T>>(high);
    }
  }
  /// All bits set in the lanes of vector n that see key j.
  [[gnu::always_inline]] auto of(Index j, Index n) const {
    const Vector key = Vector{} + static_cast<Exact<T>>(j);
    return (first[n] <= key) & (key <= last[n]);
  }
};

/// Writes the lanes' rows of x as columns: to[d / kTerms][lane][d % kTerms], zeros beside them.
template <class T>
void pack_columns(ConstView x, const Lanes<T>& lanes, Index width,
                  typename Tiling<T>::Element* to) {
  using Element = typename Tiling<T>::Element;
  constexpr Index kTerms = Tiling<T>::kTerms;
  constexpr Index kRow = Tiling<T>::kLanes * kTerms;
  for (Index i = 0; i < lanes.vectors * Tiling<T>::kPerVector; ++i) {
    const T* from = x.row<T>(lanes.row[i]) + lanes.column[i];
    for (Index d = 0; d < padded<T>(width); ++d)
      to[d / kTerms * kRow + i * kTerms + d % kTerms] =
          i < lanes.count && d < width ? converted<Element>(from[d]) : Element{};
  }
}

/// One row of `width` elements, zeros behind it; nothing but zeros where from is null.
template <class T>
void pack_row(const T* from, Index width, typename Tiling<T>::Element* to) {
  using Element = typename Tiling<T>::Element;
  const Index present = from == nullptr ? 0 : width;
  for (Index d = 0; d < present; ++d) to[d] = converted<Element>(from[d]);
  for (Index d = present; d < padded<T>(width); ++d) to[d] = Element{};
}

/// The same row as row j of a block that is kept in panels of kTileRows columns:
/// to[d / kTileRows][j / kTerms][d % kTileRows][j % kTerms].
template <class T>
void pack_panels(const T* from, Index width, Index j, typename Tiling<T>::Element* to) {
  using Element = typename Tiling<T>::Element;
  constexpr Index kTerms = Tiling<T>::kTerms;
  to += j / kTerms * kTileRows * kTerms + j % kTerms;
  for (Index d0 = 0; d0 < padded<T>(width); d0 += kTileRows, to += kBlock * kTileRows)
    for (Index d = 0; d < kTileRows; ++d)
      to[d * kTerms] =
          from != nullptr && d0 + d < width ? converted<Element>(from[d0 + d]) : Element{};
}

/// scores[j][lane] = key j . query, for the keys of [begin, end) of a block of rows.
template <class T>
void score(const typename Tiling<T>::Element* keys, const typename Tiling<T>::Element* queries,
           Index width, const Sight<T>& sight, Index vectors, typename Tiling<T>::Vector* scores) {
  const Index items = padded<T>(width) / Tiling<T>::kTerms;
  for (Index j = sight.begin; j < sight.end; j += kTileRows)
    multiply_lanes<T>(
        Product<T>{.terms = items,
                   .a = reinterpret_cast<const typename Tiling<T>::Item*>(keys) + j * items,
                   .a_row = items,
                   .a_term = 1,
                   .b = reinterpret_cast<const typename Tiling<T>::Items*>(queries),
                   .b_term = kTileVectors,
                   .sums = scores + j * kTileVectors,
                   .sums_row = kTileVectors},
        vectors, nullptr);
}

/// sums[d][lane] = sums * factor + sum over the keys j of [begin, end) of panels[d][j]
/// weights[j][lane].
template <class T>
void accumulate(const typename Tiling<T>::Element* panels, const typename Tiling<T>::Items* weights,
                Index width, const Sight<T>& sight, Index vectors,
                const typename Tiling<T>::Vector* factor, typename Tiling<T>::Vector* sums) {
  constexpr Index kTerms = Tiling<T>::kTerms;
  const Index begin = sight.begin / kTerms;
  const auto* items = reinterpret_cast<const typename Tiling<T>::Item*>(panels);
  for (Index d = 0; d < padded<T>(width); d += kTileRows)
    multiply_lanes<T>(Product<T>{.terms = sight.end / kTerms - begin,
                                 .a = items + (d * kBlock / kTerms + begin * kTileRows),
                                 .a_row = 1,
                                 .a_term = kTileRows,
                                 .b = weights + begin * kTileVectors,
                                 .b_term = kTileVectors,
                                 .sums = sums + d * kTileVectors,
                                 .sums_row = kTileVectors},
                      vectors, factor);
}

#if defined(__AVX512BF16__)
typedef std::uint16_t HalfRegister __attribute__((vector_size(kVectorBytes / 2), may_alias));

/// A vector of sums, rounded to bf16.
[[gnu::always_inline]] inline HalfRegister rounded(const Register<float>::Type& x) {
  return (HalfRegister)_mm512_cvtneps_pbh((__m512)x);
}

/// Two rows of lanes as pairs: the lane's element of a below that of b.
[[gnu::always_inline]] inline Register<std::uint32_t>::Type pairs(const HalfRegister& a,
                                                                  const HalfRegister& b) {
  using Wide = Register<std::uint32_t>::Type;
  return __builtin_convertvector(a, Wide) | __builtin_convertvector(b, Wide) << 16;
}
#endif

}  // namespace
}  // namespace samba
