#pragma once

#include "core/matrix.h"
#include "core/stream.h"

namespace samba::op {

/// y = silu(gate) * up, silu(g) = g / (1 + exp(-g)). Shazeer 2020, "GLU Variants", eq. 6.
struct SwiGlu {
  static constexpr const char* kName = "swiglu";

  View y;          ///< [N, F] out
  ConstView gate;  ///< [N, F] of y's dtype
  ConstView up;    ///< [N, F] of y's dtype

  DType dtype() const { return y.dtype; }
  void check() const;
};

/// Gradients of SwiGlu, overwritten. dgate and dup may be gate and up themselves.
struct SwiGluBackward {
  static constexpr const char* kName = "swiglu_backward";

  View dgate;      ///< [N, F]
  View dup;        ///< [N, F]
  ConstView dy;    ///< [N, F]
  ConstView gate;  ///< [N, F]
  ConstView up;    ///< [N, F]; all of one dtype

  DType dtype() const { return dy.dtype; }
  void check() const;
};

}  // namespace samba::op

namespace samba {
template <Tier> void run_on(CpuStream&, const op::SwiGlu&);
template <Tier> void run_on(CpuStream&, const op::SwiGluBackward&);
}  // namespace samba
