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

/// Gradients of SwiGlu, overwritten, and its y once more. dgate and dup may be gate and up
/// themselves, y may be dy.
struct SwiGluBackward {
  static constexpr const char* kName = "swiglu_backward";

  View dgate;      ///< [N, F]
  View dup;        ///< [N, F]
  View y = {};     ///< [N, F] out; may be left out
  ConstView dy;    ///< [N, F]
  ConstView gate;  ///< [N, F]
  ConstView up;    ///< [N, F]; all of one dtype

  DType dtype() const { return dy.dtype; }
  void check() const;
};

}  // namespace samba::op

namespace samba {
template <Tier>
void run_on(CpuStream&, const op::SwiGlu&);
void run_on(CudaStream&, const op::SwiGlu&);
template <Tier>
void run_on(CpuStream&, const op::SwiGluBackward&);
void run_on(CudaStream&, const op::SwiGluBackward&);
}  // namespace samba
