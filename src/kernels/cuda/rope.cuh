#pragma once

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/spans.cuh"
#include "kernels/rope.h"
#include "kernels/rope_turns.h"

// How a pair of columns is rotated, for kernels that all leave the same bits.

namespace samba {
namespace {

constexpr Index kMostPairs = 128;  ///< of columns a launch, whose frequencies are its parameter

struct Frequencies {
  Turn turns[kMostPairs];
};

struct Rotation {
  float cosine, sine;

  /// Written so that every kernel rounds alike.
  __device__ void turn(float& a, float& b) const {
    const float left = fmaf(-b, sine, a * cosine);
    b = fmaf(a, sine, b * cosine);
    a = left;
  }
};

/// Where a row's token stands.
__device__ inline Index position_of(const op::Rope& op, Index row) {
  const Span& span = op.batch.spans[span_of(op.batch, row)];
  const Index position = span.position + row - span.first;
  return (op.group > 1 ? position / op.group : position) + op.shift;
}

__device__ inline Rotation rotation_of(Turn frequency, Index position, bool inverse) {
  constexpr float kHalfPi = 1.57079632679489661923f;
  const auto p = static_cast<std::uint64_t>(position);
  const auto low = static_cast<std::uint64_t>(frequency),
             high = static_cast<std::uint64_t>(frequency >> 64);
  // The upper half of position times frequency modulo 2^128, in quadrants and a rest of at most
  // half a one.
  const std::uint64_t top = p * high + __umul64hi(p, low);
  const std::uint64_t quadrant = (top + (std::uint64_t{1} << 61)) >> 62;
  const auto rest = static_cast<std::int64_t>(top - (quadrant << 62));
  const float x = __ll2float_rn(rest) * (kHalfPi * 0x1p-62f), z = x * x;
  // Taylor's series on [-pi / 4, pi / 4], to below half a unit in the last place.
  float s = 1 / 362880.0f;
  s = s * z - 1 / 5040.0f;
  s = s * z + 1 / 120.0f;
  s = s * z - 1 / 6.0f;
  s = s * z * x + x;
  float c = -1 / 3628800.0f;
  c = c * z + 1 / 40320.0f;
  c = c * z - 1 / 720.0f;
  c = c * z + 1 / 24.0f;
  c = c * z - 0.5f;
  c = c * z + 1;
  const bool swapped = quadrant % 2 == 1;
  const float cosine = swapped ? s : c, sine = swapped ? c : s;
  const auto turned = static_cast<unsigned>(quadrant) % 4;
  return {turned == 1 || turned == 2 ? -cosine : cosine, (turned >= 2) != inverse ? -sine : sine};
}

}  // namespace
}  // namespace samba
