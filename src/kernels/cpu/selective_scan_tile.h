#pragma once

#include <algorithm>

#include "kernels/cpu/channels.h"
#include "kernels/cpu/parallel.h"
#include "kernels/selective_scan.h"

// What the selective scan and its backward share: both work on a tile of channels and a chunk of
// tokens at a time, so that everything between the rows of the batch stays in the first cache.

namespace samba {
namespace {

/// Channels of a tile: in bf16 they fill a cache line of a row. A multiple of every tier's lanes.
constexpr Index kTile = 32;
constexpr Index kChunk = op::SelectiveScan::kChunk;

/// A row of a tile, channel by channel; channels beyond the last one of the matrix hold zeros.
template <class R>
using Row = R[kTile];

constexpr Index tiles_of(Index channels) {
  return (channels + kTile - 1) / kTile;
}

/// log2(e) A of the tile from channel e on, as rows of states: h decays by exp2(delta a).
template <class R>
void load_decay(ConstView a_log, Index e, Row<R>* a) {
  using L = Lanes<R>;
  const Index states = a_log.cols, count = std::min(kTile, a_log.rows - e);
  if (count < kTile) std::fill_n(a[0], states * kTile, R{0});
  for (Index i = 0; i < count; ++i) {
    const R* row = a_log.row<R>(e + i);
    for (Index n = 0; n < states; ++n) a[n][i] = row[n];
  }
  for (Index n = 0; n < states; ++n)
    for (Index i = 0; i < kTile; i += L::kCount)
      (exp(L::load(a[n] + i)) * L::all(static_cast<R>(-1.44269504088896340736))).store(a[n] + i);
}

/// Reads the tile from channel e on of a state; `count` is the number of its channels.
template <class R>
void load_state(const R* state, Index channels, Index states, Index e, Row<R>* h) {
  const Index count = std::min(kTile, channels - e);
  for (Index n = 0; n < states; ++n) {
    for (Index i = 0; i < count; ++i) h[n][i] = state[n * channels + e + i];
    for (Index i = count; i < kTile; ++i) h[n][i] = 0;
  }
}

template <class R>
void store_state(R* state, Index channels, Index states, Index e, const Row<R>* h) {
  const Index count = std::min(kTile, channels - e);
  for (Index n = 0; n < states; ++n)
    for (Index i = 0; i < count; ++i) state[n * channels + e + i] = h[n][i];
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
