#pragma once

#include "kernels/cpu/simd.h"
#include "kernels/cpu/tier.h"

// Products of small matrices of one type that lie in the caches, row by row, unpacked.

namespace samba {
namespace {

// Rows x registers of sums that fit beside their operands.
constexpr Index kTileRows = kTier >= Tier::avx512 ? 8 : 4;
constexpr int kTileRegisters = kTier == Tier::plain ? 2 : 3;

/// Rows and columns of the small matrices: filled up with zeros to whole tiles.
template <class R>
constexpr Index whole_tiles(Index size) {
  constexpr Index kTo = std::max(kTileRows, Lanes<R>::kCount);
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

template <class R, int kRegisters, bool kAdd>
[[gnu::noinline]] void multiply_tile(Index terms, Factor<R> a, const R* b, Index b_step, R* c,
                                     Index c_step) {
  using L = Lanes<R>;
  L sums[kTileRows][kRegisters] = {};
  if constexpr (kAdd)
#pragma GCC unroll 8
    for (Index r = 0; r < kTileRows; ++r)
#pragma GCC unroll 4
      for (int n = 0; n < kRegisters; ++n) sums[r][n] = L::load(c + r * c_step + n * L::kCount);
  for (Index t = 0; t < terms; ++t, a.p += a.term_step, b += b_step) {
    L factors[kRegisters];
#pragma GCC unroll 4
    for (int n = 0; n < kRegisters; ++n) factors[n] = L::load(b + n * L::kCount);
#pragma GCC unroll 8
    for (Index r = 0; r < kTileRows; ++r) {
      const L factor = L::all(a.p[r * a.row_step]);
#pragma GCC unroll 4
      for (int n = 0; n < kRegisters; ++n)
        sums[r][n] = L::multiply_add(factor, factors[n], sums[r][n]);
    }
  }
#pragma GCC unroll 8
  for (Index r = 0; r < kTileRows; ++r)
#pragma GCC unroll 4
    for (int n = 0; n < kRegisters; ++n) sums[r][n].store(c + r * c_step + n * L::kCount);
}

/// c (+)= a b, a [rows, terms], b [terms, cols], c [rows, cols]; rows and cols are whole tiles.
template <class R, bool kAdd, Part kPart = Part::all>
void multiply(Index rows, Index cols, Index terms, Factor<R> a, const R* b, Index b_step, R* c,
              Index c_step) {
  constexpr Index kLanes = Lanes<R>::kCount, kWidth = kTileRegisters * kLanes;
  for (Index n = 0; n < cols; n += kWidth)
    for (Index r = kPart == Part::result ? n / kTileRows * kTileRows : 0; r < rows;
         r += kTileRows) {
      const Index first = kPart == Part::upper ? std::min(r, terms) : 0;
      const Index end = kPart == Part::lower ? std::min(r + kTileRows, terms) : terms;
      const Factor<R> here{a.p + r * a.row_step + first * a.term_step, a.row_step, a.term_step};
      const R* from = b + first * b_step + n;
      R* to = c + r * c_step + n;
      const Index registers = std::min<Index>((cols - n) / kLanes, kTileRegisters);
      if (registers == kTileRegisters)
        multiply_tile<R, kTileRegisters, kAdd>(end - first, here, from, b_step, to, c_step);
      else if (registers == 2)
        multiply_tile<R, 2, kAdd>(end - first, here, from, b_step, to, c_step);
      else
        multiply_tile<R, 1, kAdd>(end - first, here, from, b_step, to, c_step);
    }
}

}  // namespace
}  // namespace samba
