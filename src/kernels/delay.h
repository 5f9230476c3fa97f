#pragma once

#include "core/matrix.h"
#include "core/stream.h"
#include "kernels/batch.h"

namespace samba::op {

/// Each row late by some tokens: y_p = x_(p - by) for position p of a sequence, zeros before p =
/// by.
///
/// A sequence's state is its last `by` rows, that of position p in row p % by.
struct Delay {
  static constexpr const char* kName = "delay";

  View y;       ///< [N, C] out
  ConstView x;  ///< [N, C] of y's dtype; not y itself
  Index by;     ///< at least 1
  Batch batch;
  View state = {};  ///< [slots, by * C] in and out, of y's dtype; may be left out

  DType dtype() const { return y.dtype; }
  void check() const;
};

}  // namespace samba::op

namespace samba {
template <Tier>
void run_on(CpuStream&, const op::Delay&);
void run_on(CudaStream&, const op::Delay&);
}  // namespace samba
