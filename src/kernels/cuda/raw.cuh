#pragma once

#include "core/error.h"
#include "kernels/cuda/vector.cuh"

// Rows for threads that ask for much at a time, and early.

namespace samba {

/// `count` times `bytes` behind `from`, by one multiplication of 32 bits: see expect_narrow.
__device__ inline const std::byte* offset_by(const std::byte* from, int count, int bytes) {
  const std::byte* place;
  asm("mad.wide.s32 %0, %1, %2, %3;" : "=l"(place) : "r"(count), "r"(bytes), "l"(from));
  __builtin_assume(__isGlobal(place));
  return place;
}
/// Where element e of a row lies.
__device__ inline const std::byte* place_of(const std::byte* data, Index stride, int size, int row,
                                            int e) {
  return offset_by(offset_by(data, row, static_cast<int>(stride) * size), e, size);
}
template <class T>
__device__ inline const T* at(ConstView from, int row, int e) {
  return reinterpret_cast<const T*>(place_of(from.data, from.stride, sizeof(T), row, e));
}
template <class T>
__device__ inline T* at(View to, int row, int e) {
  return reinterpret_cast<T*>(
      const_cast<std::byte*>(place_of(to.data, to.stride, sizeof(T), row, e)));
}

/// Refuses matrices whose number of rows, or whose rows' bytes, are no 32-bit number.
template <class... Views>
void expect_narrow(const char* op, const Views&... views) {
  const auto check = [&](ConstView v) {
    constexpr Index most = (Index{1} << 31) - 1;
    if (v.rows > most || v.stride * size_of(v.dtype) > most)
      fail(op, ": expected rows below 2 GiB and fewer than 2^31 of them, found ", shape_of(v));
  };
  (check(views), ...);
}

/// `n` neighbouring elements, in the words in which they come, so that a thread that asks for them
/// early waits only where it uses them.
template <class T, int n>
struct Raw {
  /// A `fill` of minus infinity.
  static constexpr unsigned kLowest = sizeof(T) == 4 ? 0xff800000u : 0xff80ff80u;
  static constexpr int kBytes = n * static_cast<int>(sizeof(T));
  struct alignas(kBytes < 4 ? 4 : kBytes < 16 ? kBytes : 16) Words {
    unsigned values[(kBytes + 3) / 4];
  };
  Words words{};

  /// The first `left` of them; all or none if `whole`, where they lie at a multiple of their size.
  /// The others become what `fill` holds.
  template <bool whole>
  __device__ void load(const T* from, int left, unsigned fill = 0) {
    if constexpr (whole) {
      static_assert(kBytes % 4 == 0);
#pragma unroll
      for (unsigned& word : words.values) word = fill;
      if (left > 0) words = *reinterpret_cast<const Words*>(from);
    } else {
#pragma unroll
      for (int i = 0; i < n; ++i) {
        if constexpr (sizeof(T) == 4) {
          words.values[i] = i < left ? __float_as_uint(from[i]) : fill;
        } else {
          const unsigned half = i < left ? from[i].bits : fill & 0xffffu;
          words.values[i / 2] = i % 2 == 0 ? half : words.values[i / 2] | half << 16;
        }
      }
    }
  }
  __device__ float operator[](int i) const {
    if constexpr (sizeof(T) == 4) return __uint_as_float(words.values[i]);
    const unsigned word = words.values[i / 2];
    return __uint_as_float(i % 2 == 0 ? word << 16 : word & 0xffff0000u);
  }
};

/// Writes the first `left` of n values; all or none if `whole`.
template <bool whole, int n, class T>
__device__ inline void store_run(T* to, const float (&values)[n], int left) {
  if constexpr (whole) {
    if (left > 0) store(to, values);
  } else {
#pragma unroll
    for (int i = 0; i < n; ++i)
      if (i < left) to[i] = from_float<T>(values[i]);
  }
}

}  // namespace samba
