#pragma once

#include "core/matrix.h"
#include "core/stream.h"

namespace samba::op {

/// y = silu(x) = x / (1 + exp(-x)). Hendrycks & Gimpel 2016, "Gaussian Error Linear Units", section
/// 4.
struct Silu {
  static constexpr const char* kName = "silu";

  View y;       ///< [N, F] out; may be x itself
  ConstView x;  ///< [N, F] of y's dtype

  DType dtype() const { return y.dtype; }
  void check() const;
};

/// The gradient of Silu, overwritten. dx may be dy or x themselves.
struct SiluBackward {
  static constexpr const char* kName = "silu_backward";

  View dx;       ///< [N, F]
  ConstView dy;  ///< [N, F]
  ConstView x;   ///< [N, F]; all of one dtype

  DType dtype() const { return dy.dtype; }
  void check() const;
};

}  // namespace samba::op

namespace samba {
template <Tier>
void run_on(CpuStream&, const op::Silu&);
void run_on(CudaStream&, const op::Silu&);
template <Tier>
void run_on(CpuStream&, const op::SiluBackward&);
void run_on(CudaStream&, const op::SiluBackward&);
}  // namespace samba
