#pragma once

#include <cstdint>
#include <span>

#include "core/dtype.h"

namespace samba {

/// How the next token is chosen from the logits.
struct Sampling {
  double temperature = 0;  ///< 0: the likeliest token, the lowest id among equals
  Index top_k = 0;         ///< only the k likeliest; 0: all
  double top_p = 1;        ///< only the likeliest whose probabilities reach p together
  std::uint64_t seed = 1;
};

/// Throws an Error for a negative temperature, a negative k or a p outside (0, 1].
void check(const Sampling&);

/// The id of the next token; `logits` holds one value for each id that may be chosen, and one that
/// is NaN is not. The choice is a function of the logits, the sampling and `position` alone.
std::int32_t sample(std::span<const float> logits, const Sampling&, Index position);

}  // namespace samba
