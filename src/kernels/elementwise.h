#pragma once

#include "core/matrix.h"
#include "core/stream.h"

namespace samba::op {

/// to = from, converted; or to += from. Any of f64, f32 and bf16 on either side.
struct Convert {
  static constexpr const char* kName = "convert";

  View to;           ///< [R, C]
  ConstView from;    ///< [R, C]
  bool add = false;  ///< add to `to` instead of overwriting it

  /// f64 where either side is.
  DType dtype() const { return from.dtype == DType::f64 ? from.dtype : to.dtype; }
  void check() const;
};

}  // namespace samba::op

namespace samba {
template <Tier>
void run_on(CpuStream&, const op::Convert&);
void run_on(CudaStream&, const op::Convert&);
}  // namespace samba
