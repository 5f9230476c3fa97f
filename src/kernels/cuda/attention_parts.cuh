#pragma once

#include <span>

#include "kernels/attention.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/math.cuh"

// What the kernels of attention share: which keys a query sees, and who does what.
//
// Spans of one token that may have a state go to attention_decode.cu, all others to tiles of
// queries, whatever their company: a sequence's bits are its own.
namespace samba::attention {

constexpr double kLog2e = 1.4426950408889634;
constexpr float kLn2 = 0.6931471805599453f;
/// The score of a key that is not seen: below all others, and differences with it are finite.
constexpr float kNothing = -1e30f;
/// Below it scaled scores of keys that are seen and of others are no longer far apart; kernels that
/// tell them apart by the score alone are left out.
constexpr double kLeastScale = 1e-6;

/// Position of the first key that the query at `position` sees.
__host__ __device__ inline Index first_key(const op::Attention& op, Index position) {
  if (op.chunked) return position / op.window * op.window;
  return position < op.window ? 0 : position - op.window + 1;
}

/// Rows of a ring.
__host__ __device__ inline Index capacity(const op::Attention& op) {
  return op.key_state.cols / op.k.cols;
}

/// Whether one token takes the way of decoding.
__host__ __device__ inline bool decodes(const op::Attention& op, const Span& span) {
  return span.length == 1 && op.key_state.data != nullptr;
}

/// Position of the first key that a span's queries find in its ring or among its rows.
__host__ __device__ inline Index first_there(const op::Attention& op, const Span& span) {
  const bool state = span.position > 0 && span.slot >= 0 && op.key_state.data != nullptr;
  return state ? first_key(op, span.position) : span.position;
}

/// Queries of neighbouring rows of one span.
struct Tile {
  Index span;
  Index first;  ///< of the span's rows
};

/// One query at a time against its ring; writes that token's key and value to the ring. All spans
/// that decodes() names.
void decode(CudaStream&, const op::Attention&);

/// Tiles of kGeneralRows rows of any float type and any width.
constexpr Index kGeneralRows = 64;
void attend_generally(CudaStream&, const op::Attention&, std::span<const Tile>);

/// bf16 on Hopper: heads as wide as the name says, values a multiple of it; `spans` is the host's
/// copy. Where attention.cu finds that the call suits them.
void attend_64(CudaStream&, const op::Attention&, const Span* spans);
void attend_128(CudaStream&, const op::Attention&, const Span* spans);
void attend_256(CudaStream&, const op::Attention&, const Span* spans);

}  // namespace samba::attention
