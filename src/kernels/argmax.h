#pragma once

#include "core/matrix.h"
#include "core/stream.h"

namespace samba::op {

/// The column of the largest element of each row, the lowest among equals: the likeliest token. A
/// NaN counts as less than any number.
struct Argmax {
  static constexpr const char* kName = "argmax";

  View y;       ///< [N, 1] i32 out
  ConstView x;  ///< [N, V] f32 (f64 for f64), V at least 1

  DType dtype() const { return x.dtype; }
  void check() const;
};

}  // namespace samba::op

namespace samba {
template <Tier>
void run_on(CpuStream&, const op::Argmax&);
void run_on(CudaStream&, const op::Argmax&);
}  // namespace samba
