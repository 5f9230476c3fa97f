#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "core/matrix.h"

namespace samba {

__device__ inline float to_float(float x) {
  return x;
}
__device__ inline float to_float(Bf16 x) {
  return __uint_as_float(static_cast<unsigned>(x.bits) << 16);
}

/// x rounded to T: nearest, ties to even.
template <class T>
__device__ inline T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline Bf16 from_float<Bf16>(float x) {
  Bf16 y;
  y.bits = __bfloat16_as_ushort(__float2bfloat16_rn(x));
  return y;
}

/// `n` neighbouring elements as floats, in as few accesses as their bytes allow; `from` lies at a
/// multiple of their size.
template <int n, class T>
__device__ inline void load(float (&to)[n], const T* from) {
  struct alignas(n * sizeof(T) < 16 ? n * sizeof(T) : 16) Pack {
    T values[n];
  };
  const Pack pack = *reinterpret_cast<const Pack*>(from);
#pragma unroll
  for (int i = 0; i < n; ++i) to[i] = to_float(pack.values[i]);
}

template <int n, class T>
__device__ inline void store(T* to, const float (&from)[n]) {
  struct alignas(n * sizeof(T) < 16 ? n * sizeof(T) : 16) Pack {
    T values[n];
  };
  Pack pack;
#pragma unroll
  for (int i = 0; i < n; ++i) pack.values[i] = from_float<T>(from[i]);
  *reinterpret_cast<Pack*>(to) = pack;
}

/// The same for up to n elements: where not `whole`, one by one, and zeros behind the first
/// `count`. A thread has the same elements either way, so that bits do not depend on where rows
/// lie.
template <bool whole, int n, class T>
__device__ inline void load_run(float (&to)[n], const T* from, Index count) {
  if constexpr (whole) {
    load<n>(to, from);
  } else {
#pragma unroll
    for (int i = 0; i < n; ++i) to[i] = i < count ? to_float(from[i]) : 0;
  }
}

template <bool whole, int n, class T>
__device__ inline void store_run(T* to, const float (&from)[n], Index count) {
  if constexpr (whole) {
    store<n>(to, from);
  } else {
#pragma unroll
    for (int i = 0; i < n; ++i)
      if (i < count) to[i] = from_float<T>(from[i]);
  }
}

/// Where runs of n columns, counted row by row, lie.
struct Place {
  Index row, col;
};
template <int n>
__device__ inline Place place_of(Index run, Index cols) {
  const auto number = static_cast<std::uint64_t>(run), runs = static_cast<std::uint64_t>(cols) / n;
  const std::uint64_t row = number / runs;
  return {static_cast<Index>(row), static_cast<Index>((number - row * runs) * n)};
}

/// Whether runs of `n` columns of every row can be loaded at once.
template <class... Views>
bool aligned(int n, const Views&... views) {
  const auto one = [&](ConstView v) {
    return v.empty() || (reinterpret_cast<std::uintptr_t>(v.data) % (n * size_of(v.dtype)) == 0 &&
                         v.stride % n == 0 && v.cols % n == 0);
  };
  return (one(views) && ...);
}

}  // namespace samba
