#pragma once

#include <cmath>

#include "kernels/cpu/channels.h"
#include "kernels/cpu/panel.h"
#include "kernels/cpu/tile_product.h"
#include "kernels/linear_attention.h"

// What linear attention and its backward share: a chunk of tokens of one head, its decays in the
// three forms that turn the recurrence into products. With G_t the sum of the logarithms of the
// decays from the chunk's first token to t, and S the state before it,
//
//   y_i = scale (q_i 2^G_i) [S + sum over j <= i of (k_j 2^-G_j) v_jᵀ]
//   S'  = 2^G_end S + sum over j of (k_j 2^(G_end - G_j)) v_jᵀ
//
// A chunk ends early where 2^-G would grow too large for f32.

namespace samba {
namespace {

constexpr Index kChunk = 64;
/// log2 of the strongest decay of one token, and of those of a chunk together.
template <class R>
constexpr R kLeastDecay = std::is_same_v<R, float> ? R{-40} : R{-400};
template <class R>
constexpr R kLeastProduct = std::is_same_v<R, float> ? R{-60} : R{-600};

/// Rows and columns of the small matrices: filled up with zeros to whole tiles.
template <class R>
constexpr Index whole_tiles(Index size) {
  constexpr Index kTo = std::max<Index>(kTileRows, Tiling<R>::kPerVector);
  return (size + kTo - 1) / kTo * kTo;
}

/// A factor whose element (row, term) is p[row * row_step + term * term_step].
template <class R>
struct Factor {
  const R* p;
  Index row_step;
  Index term_step;
};

/// Which elements count; the others are taken for zeros, by whole tiles.
enum class Part {
  all,
  lower,   ///< of the factor a: terms up to the row
  upper,   ///< of the factor a: terms from the row on
  result,  ///< of the result: columns up to the row
};

/// c (+)= a b, a [rows, terms], b [terms, cols], c [rows, cols]; rows and cols are whole tiles.
template <class R, bool kAdd, Part kPart = Part::all>
void multiply(Index rows, Index cols, Index terms, Factor<R> a, const R* b, Index b_step, R* c,
              Index c_step) {
  using Vector = typename Tiling<R>::Vector;
  constexpr Index kCount = Tiling<R>::kPerVector, kWidth = kTileVectors * kCount;
  constexpr Start kStart = kAdd ? Start::kept : Start::zero;
  for (Index n = 0; n < cols; n += kWidth)
    for (Index r = kPart == Part::result ? n / kTileRows * kTileRows : 0; r < rows;
         r += kTileRows) {
      const Index first = kPart == Part::upper ? std::min(r, terms) : 0;
      const Index end = kPart == Part::lower ? std::min(r + kTileRows, terms) : terms;
      multiply_tile<R, kStart>({.terms = end - first,
                                .a = a.p + r * a.row_step + first * a.term_step,
                                .a_row = a.row_step,
                                .a_term = a.term_step,
                                .b = reinterpret_cast<const Vector*>(b + first * b_step + n),
                                .b_term = b_step / kCount,
                                .sums = reinterpret_cast<Vector*>(c + r * c_step + n),
                                .sums_row = c_step / kCount},
                               std::min<Index>((cols - n) / kCount, kTileVectors));
    }
}

/// A matrix of the scratch memory: rows of `cols` numbers, filled up to whole tiles.
template <class R>
struct Tile {
  R* p = nullptr;
  Index cols = 0;

  R* row(Index r) const { return p + r * cols; }
  Factor<R> rows() const { return {p, cols, 1}; }
  /// The transposed matrix as a factor.
  Factor<R> columns() const { return {p, 1, cols}; }
};

/// Hands out a thread's scratch memory.
template <class R>
struct Arena {
  R* next;

  Tile<R> take(Index rows, Index cols) {
    const Tile<R> tile{next, cols};
    next += rows * cols;
    return tile;
  }
};

/// to = fromᵀ, for `rows` rows and all columns of `from`; both are whole tiles.
template <class R>
void transpose(Tile<R> from, Index rows, Tile<R> to) {
  using L = Lanes<R>;
  for (Index r = 0; r < rows; r += L::kCount)
    for (Index c = 0; c < from.cols; c += L::kCount) {
      L block[L::kCount];
      for (Index i = 0; i < L::kCount; ++i) block[i] = L::load(from.row(r + i) + c);
      transpose(block);
      for (Index i = 0; i < L::kCount; ++i) block[i].store(to.row(c + i) + r);
    }
}

/// Reads columns first_col .. first_col + cols - 1 of `length` rows, and zeros up to kChunk rows
/// and the tile's width.
template <class T>
void load_chunk(ConstView from, Index row, Index length, Index first_col, Index cols,
                Tile<Exact<T>> to) {
  using R = Exact<T>;
  using L = Lanes<R>;
  for (Index t = 0; t < length; ++t) {
    const T* x = from.row<T>(row + t) + first_col;
    for (Index c = 0; c < to.cols; c += L::kCount) load_left(x + c, cols - c).store(to.row(t) + c);
  }
  std::fill(to.row(length), to.row(kChunk), R{0});
}

template <class T>
void store_chunk(View to, Index row, Index length, Index first_col, Index cols,
                 Tile<Exact<T>> from) {
  using L = Lanes<Exact<T>>;
  for (Index t = 0; t < length; ++t) {
    T* x = to.row<T>(row + t) + first_col;
    for (Index c = 0; c < cols; c += L::kCount)
      store_left(x + c, cols - c, L::load(from.row(t) + c));
  }
}

/// Keeps what is on and below the diagonal of a chunk's scores.
template <class R>
void keep_lower(Tile<R> scores) {
  for (Index i = 0; i < kChunk; ++i) std::fill(scores.row(i) + i + 1, scores.row(i) + kChunk, R{0});
}

/// log2 of the constant decay of head h.
inline double retention(Index head) {
  return std::log2(1 - std::exp2(-5 - static_cast<double>(head)));
}

/// log2 of a gated decay.
template <class R>
[[gnu::always_inline]] inline Lanes<R> gated_decay(Lanes<R> gate) {
  using L = Lanes<R>;
  constexpr R kFactor = static_cast<R>(-1.44269504088896340736 / op::LinearAttention::kGateDivisor);
  // -log sigmoid(gate), without the cut of softplus.
  const L minus = L::all(0) - gate;
  const L soft = larger(L::all(0), minus) + log1p(exp(L::all(0) - larger(minus, gate)));
  return larger(L::all(kLeastDecay<R>), soft * L::all(kFactor));
}

/// Fills G for the chunk that begins at `row`: at most `most` tokens. Returns how many it has. A
/// row more than a chunk has is scratch.
template <class T>
Index load_decays(ConstView gate, Index head, Index row, Index most, Index first_col, Index cols,
                  Tile<Exact<T>> to) {
  using R = Exact<T>;
  using L = Lanes<R>;
  most = std::min(most, kChunk);
  if (gate.empty()) {
    const R step = static_cast<R>(retention(head));
    for (Index t = 0; t < most; ++t) std::fill_n(to.row(t), to.cols, step * static_cast<R>(t + 1));
    return most;
  }
  // Sums are compensated (Kahan 1965): their errors would show in every weight of the chunk.
  R* lost = to.row(kChunk);
  std::fill_n(lost, to.cols, R{0});
  for (Index t = 0; t < most; ++t) {
    const T* x = gate.row<T>(row + t) + first_col;
    L least = L::all(0);
    for (Index c = 0; c < to.cols; c += L::kCount) {
      const L before = t == 0 ? L::all(0) : L::load(to.row(t - 1) + c);
      const L step = gated_decay(load_left(x + c, cols - c)) - L::load(lost + c);
      const L sum = before + step;
      ((sum - before) - step).store(lost + c);
      sum.store(to.row(t) + c);
      least = larger(L::all(0) - sum, least);
    }
    R lanes[L::kCount];
    least.store(lanes);
    if (t > 0 && *std::max_element(lanes, lanes + L::kCount) > -kLeastProduct<R>) return t;
  }
  return most;
}

/// Multiplies row r of the state by 2^decay[r].
template <class R>
void decay_rows(Tile<R> state, Index rows, const R* decay) {
  using L = Lanes<R>;
  for (Index r = 0; r < rows; ++r) {
    const L factor = exp2(L::all(decay[r]));
    for (Index c = 0; c < state.cols; c += L::kCount)
      (L::load(state.row(r) + c) * factor).store(state.row(r) + c);
  }
}

}  // namespace
}  // namespace samba
