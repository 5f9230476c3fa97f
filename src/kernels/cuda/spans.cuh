#pragma once

#include "kernels/batch.h"

namespace samba {

/// The index of the span in which row lies.
__device__ inline Index span_of(const Batch& batch, Index row) {
  if (batch.longest == 1) return row;
  Index low = 0, high = batch.count;
  while (high - low > 1) {
    const Index middle = (low + high) / 2;
    (batch.spans[middle].first <= row ? low : high) = middle;
  }
  return low;
}

}  // namespace samba
