#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "core/matrix.h"
#include "kernels/attention.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/tile_product.h"

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

// Vectors of head columns that fit the registers beside their operands: mostly a power of two.
constexpr int kWideVectors = kTier == Tier::avx2 ? 3 : 2;
/// Keys of a block.
constexpr Index kBlock = 96;
static_assert(kBlock % kTileRows == 0);

// Stands for minus infinity where scores are masked: its differences are numbers.
constexpr double kNothing = -1e30;
constexpr double kLog2e = 1.44269504088896340736;
constexpr double kLn2 = 0.693147180559945309417;

constexpr Index round_up(Index x, Index to) {
  return (x + to - 1) / to * to;
}

/// Columns of a head in a tile: filled up with zeros to whole registers.
template <class T>
constexpr Index padded(Index width) {
  return round_up(width, kTileRows > Tiling<T>::kPerVector ? kTileRows : Tiling<T>::kPerVector);
}

/// Adds to kTileRows rows of `vectors` vectors of head columns.
template <class T>
void multiply_columns(Product<T> p, Index vectors) {
  static_assert(kWideVectors <= 3);
  while (vectors > 0) {
    const Index count = std::min<Index>(vectors, kWideVectors);
    if (count == kWideVectors)
      multiply<T, kWideVectors, Start::kept>(p);
    else if (count == 2)
      multiply<T, 2, Start::kept>(p);
    else
      multiply<T, 1, Start::kept>(p);
    p.b += count;
    p.sums += count;
    vectors -= count;
  }
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

/// Which keys a query sees: those from first_key to its own position.
struct Window {
  Index length;
  bool chunked;

  Index first_key(Index position) const {
    return chunked ? position / length * length : std::max<Index>(0, position - length + 1);
  }
};

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
  Index row[kLanes];    ///< in the batch
  Index head[kLanes];   ///< of the queries
  Index first[kLanes];  ///< position of the first key
  Index last[kLanes];   ///< of the last; before the first in lanes without a query

  Lanes(const Piece& piece, const op::Heads& heads, const Window& window, Index kv_head,
        Index tile) {
    const Index group = heads.heads / heads.kv_heads;
    const Index begin = tile * kLanes;
    count = std::min(kLanes, piece.span.length * group - begin);
    vectors = (count + Tiling<T>::kPerVector - 1) / Tiling<T>::kPerVector;
    for (Index i = 0; i < kLanes; ++i) {
      const Index query = std::min(begin + i, piece.span.length * group - 1) / group;
      row[i] = piece.span.first + query;
      head[i] = kv_head * group + (begin + i) % group;
      last[i] = piece.span.position + query;
      first[i] = std::max(piece.first_key, window.first_key(last[i]));
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
  Index vectors;
  bool all = true;  ///< every lane sees every key
  Index
      begin[kTileVectors];  ///< first key that vector n's lanes see, rounded down to register tiles
  Index end[kTileVectors];  ///< behind the last one, rounded up
  Vector first[kTileVectors];
  Vector last[kTileVectors];

  Sight(const Lanes<T>& lanes, Index block) : vectors(lanes.vectors) {
    const Index base = block * kBlock;
    for (Index n = 0; n < vectors; ++n) {
      const Index low = n * kPerVector, high = std::min(low + kPerVector, lanes.count) - 1;
      const Index from = std::clamp<Index>(lanes.first[low] - base, 0, kBlock);
      const Index to = std::clamp<Index>(lanes.last[high] - base + 1, 0, kBlock);
      begin[n] = from / kTileRows * kTileRows;
      end[n] = std::max(begin[n], round_up(to, kTileRows));
      all = all && high == low + kPerVector - 1 && lanes.last[low] - base >= kBlock - 1 &&
            lanes.first[high] <= base;
    }
    if (all) return;
    for (Index i = 0; i < vectors * kPerVector; ++i) {
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
  /// Calls f(first key, end of keys, first vector, number of vectors) for rectangles that cover
  /// what is seen. Both bounds rise with the vectors, so those that see a key are neighbours.
  template <class F>
  void rectangles(F&& f) const {
    const auto range = [&](Index j, Index& from, Index& count) {
      from = count = 0;
      while (from < vectors && end[from] <= j) ++from;
      while (from + count < vectors && begin[from + count] <= j) ++count;
    };
    Index j = begin[0];
    while (j < end[vectors - 1]) {
      Index from, count, next = j + kTileRows;
      range(j, from, count);
      for (; next < end[vectors - 1]; next += kTileRows) {
        Index next_from, next_count;
        range(next, next_from, next_count);
        if (next_from != from || next_count != count) break;
      }
      if (count > 0) f(j, next, from, count);
      j = next;
    }
  }
};

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

[[gnu::always_inline]] inline Register<float>::Type load(const float* from) {
  Register<float>::Type x;
  __builtin_memcpy(&x, from, sizeof(x));
  return x;
}

[[gnu::always_inline]] inline Register<double>::Type load(const double* from) {
  Register<double>::Type x;
  __builtin_memcpy(&x, from, sizeof(x));
  return x;
}

[[gnu::always_inline]] inline Register<float>::Type load(const Bf16* from) {
  typedef std::uint16_t Half __attribute__((vector_size(kVectorBytes / 2)));
  typedef std::uint32_t Bits __attribute__((vector_size(kVectorBytes)));
  Half x;
  __builtin_memcpy(&x, from, sizeof(x));
  return (Register<float>::Type)(__builtin_convertvector(x, Bits) << 16);
}

/// A vector of items from the elements of one row; zeros behind the first `present`.
template <class T>
[[gnu::always_inline]] inline typename Tiling<T>::Items load_items(const T* from, Index present) {
  constexpr Index kCount = Tiling<T>::kPerVector * Tiling<T>::kTerms;
  T part[kCount];
  if (present < kCount) {
    for (Index i = 0; i < kCount; ++i) part[i] = i < present ? from[i] : T{};
    from = part;
  }
  if constexpr (Tiling<T>::kTerms == 1) {
    return load(from);
  } else {
    typename Tiling<T>::Items x;
    __builtin_memcpy(&x, from, sizeof(x));
    return x;
  }
}

/// Writes the first `count` elements of x.
template <class T>
[[gnu::always_inline]] inline void store(T* to, const typename Tiling<T>::Vector& x, Index count) {
  if (count >= Tiling<T>::kPerVector) {
    if constexpr (!std::is_same_v<T, Bf16>) {
      __builtin_memcpy(to, &x, sizeof(x));
    } else if constexpr (Tiling<T>::kTerms == 2) {
#if defined(__AVX512BF16__)
      const HalfRegister half = rounded(x);
      __builtin_memcpy(&to->bits, &half, sizeof(half));
#endif
    } else {
      for (Index i = 0; i < Tiling<T>::kPerVector; ++i) put(to[i], x[i]);
    }
    return;
  }
  for (Index i = 0; i < count; ++i) put(to[i], x[i]);
}

/// Swaps rows and lanes of as many vectors as a vector has lanes.
template <class E, class Vector>
[[gnu::always_inline]] inline void transpose(Vector* rows) {
  using Number = std::conditional_t<sizeof(E) == 8, std::int64_t, std::int32_t>;
  typedef Number Order __attribute__((vector_size(kVectorBytes)));
  constexpr Index kCount = kVectorBytes / static_cast<Index>(sizeof(E));
#pragma GCC unroll 4
  for (Index step = 1; step < kCount; step *= 2) {
    Order low, high;
#pragma GCC unroll 16
    for (Index i = 0; i < kCount; ++i) {
      const bool odd = (i & step) != 0;
      low[i] = static_cast<Number>(odd ? kCount + i - step : i);
      high[i] = static_cast<Number>(odd ? kCount + i : i + step);
    }
#pragma GCC unroll 16
    for (Index i = 0; i < kCount; ++i)
      if ((i & step) == 0) {
        const Vector a = rows[i], b = rows[i + step];
        rows[i] = __builtin_shuffle(a, b, low);
        rows[i + step] = __builtin_shuffle(a, b, high);
      }
  }
}

/// Writes the lanes' rows of x, whose heads are `width` wide, as columns:
/// to[d / kTerms][lane][d % kTerms], zeros beside them.
template <class T>
[[gnu::noinline]] void pack_columns(ConstView x, const Lanes<T>& lanes, Index width,
                                    typename Tiling<T>::Element* to) {
  using Items = typename Tiling<T>::Items;
  constexpr Index kPerVector = Tiling<T>::kPerVector, kTerms = Tiling<T>::kTerms;
  const Index items = padded<T>(width) / kTerms;
  auto* vectors = reinterpret_cast<Items*>(to);
  for (Index n = 0; n < lanes.vectors; ++n)
    for (Index t = 0; t < items; t += kPerVector) {
      Items rows[kPerVector];
      for (Index i = 0; i < kPerVector; ++i) {
        const Index lane = n * kPerVector + i, d = t * kTerms;
        rows[i] = lane >= lanes.count
                      ? Items{}
                      : load_items<T>(x.row<T>(lanes.row[lane]) + lanes.head[lane] * width + d,
                                      width - d);
      }
      transpose<typename Tiling<T>::Item>(rows);
      for (Index i = 0; i < std::min(kPerVector, items - t); ++i)
        vectors[(t + i) * kTileVectors + n] = rows[i];
    }
}

/// The way back: rows of y = sums[d][lane] * factors[lane].
template <class T>
[[gnu::noinline]] void unpack_columns(const typename Tiling<T>::Vector* sums,
                                      const typename Tiling<T>::Vector* factors,
                                      const Lanes<T>& lanes, Index width, View y) {
  constexpr Index kPerVector = Tiling<T>::kPerVector;
  for (Index n = 0; n < lanes.vectors; ++n)
    for (Index d = 0; d < width; d += kPerVector) {
      typename Tiling<T>::Vector rows[kPerVector];
      for (Index i = 0; i < kPerVector; ++i)
        rows[i] = sums[std::min(d + i, width - 1) * kTileVectors + n] * factors[n];
      transpose<Exact<T>>(rows);
      for (Index i = 0; i < std::min(kPerVector, lanes.count - n * kPerVector); ++i) {
        const Index lane = n * kPerVector + i;
        store<T>(y.row<T>(lanes.row[lane]) + lanes.head[lane] * width + d, rows[i], width - d);
      }
    }
}

/// One row of `width` elements, zeros behind it; nothing but zeros where from is null.
template <class T>
void pack_row(const T* from, Index width, typename Tiling<T>::Element* to) {
  using Element = typename Tiling<T>::Element;
  const Index present = from == nullptr ? 0 : width;
#pragma omp simd
  for (Index d = 0; d < present; ++d) to[d] = converted<Element>(from[d]);
  for (Index d = present; d < padded<T>(width); ++d) to[d] = Element{};
}

/// Column d of kTerms rows as one item; rows that are null count as zeros.
template <class T>
[[gnu::always_inline]] inline typename Tiling<T>::Item item_of(const T* const* rows, Index d) {
  if constexpr (Tiling<T>::kTerms == 1) {
    return rows[0] == nullptr ? Exact<T>{} : get(rows[0][d]);
  } else {
    const std::uint32_t low = rows[0] == nullptr ? 0 : rows[0][d].bits;
    const std::uint32_t high = rows[1] == nullptr ? 0 : rows[1][d].bits;
    return low | high << 16;
  }
}

/// kTerms rows as one row of items, zeros behind it.
template <class T>
void pack_items(const T* const* rows, Index width, typename Tiling<T>::Item* to) {
  const T* const both[2] = {rows[0], rows[Tiling<T>::kTerms - 1]};
  if (both[0] != nullptr && both[1] != nullptr) {
#pragma omp simd
    for (Index d = 0; d < width; ++d) to[d] = item_of<T>(both, d);
  } else {
    for (Index d = 0; d < width; ++d) to[d] = item_of<T>(both, d);
  }
  for (Index d = width; d < padded<T>(width); ++d) to[d] = 0;
}

/// kTerms rows as item j of a block that is kept in panels: to[d / kTileRows][j][d % kTileRows].
template <class T>
void pack_panels(const T* const* rows, Index width, Index j, typename Tiling<T>::Item* to) {
  constexpr Index kPanel = kBlock / Tiling<T>::kTerms * kTileRows;
  to += j * kTileRows;
  Index d = 0;
  if (rows[0] != nullptr && rows[Tiling<T>::kTerms - 1] != nullptr)
    for (; d + kTileRows <= width; d += kTileRows, to += kPanel)
#pragma omp simd
      for (Index r = 0; r < kTileRows; ++r) to[r] = item_of<T>(rows, d + r);
  for (; d < padded<T>(width); d += kTileRows, to += kPanel)
    for (Index r = 0; r < kTileRows; ++r) to[r] = d + r < width ? item_of<T>(rows, d + r) : 0;
}

/// scores[j][lane] = key j . query, for the keys that are seen.
template <class T>
void score(const typename Tiling<T>::Element* keys, const typename Tiling<T>::Element* queries,
           Index width, const Sight<T>& sight, typename Tiling<T>::Vector* scores) {
  const Index items = padded<T>(width) / Tiling<T>::kTerms;
  sight.rectangles([&](Index begin, Index end, Index n, Index count) {
    for (Index j = begin; j < end; j += kTileRows)
      multiply_tile<T, Start::zero>(
          Product<T>{.terms = items,
                     .a = reinterpret_cast<const typename Tiling<T>::Item*>(keys) + j * items,
                     .a_row = items,
                     .a_term = 1,
                     .b = reinterpret_cast<const typename Tiling<T>::Items*>(queries) + n,
                     .b_term = kTileVectors,
                     .sums = scores + j * kTileVectors + n,
                     .sums_row = kTileVectors},
          count);
  });
}

/// sums[d][lane] = sums * factor + sum over the keys j that are seen of panels[d][j]
/// weights[j][lane].
template <class T>
void accumulate(const typename Tiling<T>::Element* panels, const typename Tiling<T>::Items* weights,
                Index width, const Sight<T>& sight, const typename Tiling<T>::Vector* factor,
                typename Tiling<T>::Vector* sums) {
  constexpr Index kTerms = Tiling<T>::kTerms;
  const auto* items = reinterpret_cast<const typename Tiling<T>::Item*>(panels);
  const bool scaled = factor != nullptr;
  if (scaled && !sight.all)
    for (Index d = 0; d < padded<T>(width); ++d)
      for (Index n = 0; n < sight.vectors; ++n) sums[d * kTileVectors + n] *= factor[n];
  sight.rectangles([&](Index begin, Index end, Index n, Index count) {
    for (Index d = 0; d < padded<T>(width); d += kTileRows) {
      const Product<T> p{.terms = (end - begin) / kTerms,
                         .a = items + (d * kBlock + begin * kTileRows) / kTerms,
                         .a_row = 1,
                         .a_term = kTileRows,
                         .b = weights + begin / kTerms * kTileVectors + n,
                         .b_term = kTileVectors,
                         .sums = sums + d * kTileVectors + n,
                         .sums_row = kTileVectors};
      if (scaled && sight.all)
        multiply_tile<T, Start::scaled>(p, count, factor);
      else
        multiply_tile<T, Start::kept>(p, count);
    }
  });
}

}  // namespace
}  // namespace samba
