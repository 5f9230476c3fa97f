#pragma once

#include <vector>

#include "core/dtype.h"

namespace samba {

/// A run of consecutive tokens of one sequence, in consecutive rows of a batch.
///
/// Position 0 begins a document: whatever state the slot holds is ignored. A later position with a
/// slot continues from the slot's state; one without a slot starts from nothing.
struct Span {
  Index first;      ///< its first row
  Index length;     ///< its number of rows, at least 1
  Index position;   ///< place in its sequence of its first token
  Index slot = -1;  ///< the sequence's row in every state matrix; -1: none is read or left behind

  bool continues() const { return position > 0 && slot >= 0; }
};

/// The tokens of one pass, packed as rows; no padding, no batch dimension.
///   training  a span per sequence or document, from position 0, no slot
///   prefill   a span per prompt, or per chunk of one
///   decode    a span of length 1 per running sequence
/// A batch may mix the last two.
struct Batch {
  const Span* spans = nullptr;
  Index count = 0;    ///< number of spans
  Index tokens = 0;   ///< N, the sum of their lengths
  Index longest = 0;  ///< the greatest length
};

/// The batch of these spans. Throws an Error unless they cover rows 0 .. N-1 in order without gaps
/// and no slot is named twice. The vector must outlive the batch.
Batch batch_of(const std::vector<Span>& spans);

}  // namespace samba
