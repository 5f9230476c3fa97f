#pragma once

#include "core/matrix.h"
#include "core/stream.h"

namespace samba::op {

/// sum += the sum of x, added in double in a fixed order.
struct Sum {
  static constexpr const char* kName = "sum";

  View sum;     ///< [1, 1] f64 in and out
  ConstView x;  ///< [N, 1] f32 or f64

  DType dtype() const { return x.dtype; }
  void check() const;
};

}  // namespace samba::op

namespace samba {
template <Tier>
void run_on(CpuStream&, const op::Sum&);
void run_on(CudaStream&, const op::Sum&);
}  // namespace samba
