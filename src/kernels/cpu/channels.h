#pragma once

#include "kernels/cpu/simd_math.h"
#include "kernels/cpu/tier.h"

// Registers of neighbouring channels of a row, whose number is no multiple of the lanes.

namespace samba {
namespace {

/// Reads the lanes of channel `e` on, as zeros from `channels` on.
template <class T>
[[gnu::always_inline]] inline Lanes<Exact<T>> load_channels(const T* row, Index e, Index channels) {
  using L = Lanes<Exact<T>>;
  return channels - e >= L::kCount ? L::load(row + e) : L::load_first(row + e, channels - e);
}

/// Writes them, none from `channels` on.
template <class T>
[[gnu::always_inline]] inline void store_channels(T* row, Index e, Index channels,
                                                  Lanes<Exact<T>> x) {
  if (channels - e >= Lanes<Exact<T>>::kCount)
    x.store(row + e);
  else
    x.store_first(row + e, channels - e);
}

}  // namespace
}  // namespace samba
