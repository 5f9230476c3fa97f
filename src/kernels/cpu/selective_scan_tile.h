#pragma once

#include <algorithm>
#include <cmath>

#include "kernels/cpu/channels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/selective_scan.h"

// What the selective scan and its backward share: both work on a tile of channels and a few tokens
// at a time, so that everything between the rows of the batch stays in the first cache.

namespace samba {
namespace {

constexpr Index kChunk = op::SelectiveScan::kChunk;
/// Channels that fill a cache line of a row in bf16: a multiple of every tier's lanes.
constexpr Index kLine = 32;

/// Neighbouring channels. Rows of a tile hold them one after the other, then zeros up to a multiple
/// of kLine.
struct Tile {
  Index e;  ///< the first
  Index count;

  Index padded() const { return (count + kLine - 1) / kLine * kLine; }
};

/// log2(e) A of the tile, as rows of states: h decays by exp2(delta a). An error of A grows with
/// every token that the state lives through, so that A alone is computed in double.
template <class R, Index kWidth>
void load_decay(ConstView a_log, Tile tile, R (*a)[kWidth]) {
  for (Index i = 0; i < tile.padded(); ++i)
    for (Index n = 0; n < a_log.cols; ++n)
      a[n][i] = i < tile.count ? static_cast<R>(-1.44269504088896340736 *
                                                std::exp(double{a_log.row<R>(tile.e + i)[n]}))
                               : R{0};
}

/// Reads the tile of a state.
template <class R, Index kWidth>
void load_state(const R* state, Index channels, Index states, Tile tile, R (*h)[kWidth]) {
  for (Index n = 0; n < states; ++n) {
    std::copy_n(state + n * channels + tile.e, tile.count, h[n]);
    std::fill(h[n] + tile.count, h[n] + tile.padded(), R{0});
  }
}

template <class R, Index kWidth>
void store_state(R* state, Index channels, Index states, Tile tile, const R (*h)[kWidth]) {
  for (Index n = 0; n < states; ++n) std::copy_n(h[n], tile.count, state + n * channels + tile.e);
}

/// Reads rows first .. first + length - 1 of b or c, widened.
template <class T>
void load_rows(ConstView from, Index first, Index length, Exact<T>* to) {
  for (Index t = 0; t < length; ++t) {
    const T* row = from.row<T>(first + t);
    for (Index n = 0; n < from.cols; ++n) to[t * from.cols + n] = get(row[n]);
  }
}

}  // namespace
}  // namespace samba
