#pragma once

#include "core/matrix.h"
#include "core/stream.h"

namespace samba::op {

/// The output of a linear attention, normalised head by head and gated:
///   y = x / rms(x) * w * silu(gate)          rms(x) = sqrt(mean(x^2) + eps) over a head's V
///   columns
/// Sun et al. 2023, "Retentive Network", eq. 8, with the RMSNorm of Yang et al. 2023.
struct GatedNorm {
  static constexpr const char* kName = "gated_norm";

  View y;          ///< [N, H V] out
  ConstView x;     ///< [N, H V]
  ConstView gate;  ///< [N, H V]
  ConstView w;     ///< [1, V] f32 (f64 for f64), shared by the heads
  double eps;

  DType dtype() const { return y.dtype; }
  void check() const;
};

/// Gradients of GatedNorm. dx and dgate are overwritten and may be x and gate themselves; dw is
/// added to.
struct GatedNormBackward {
  static constexpr const char* kName = "gated_norm_backward";

  View dx;         ///< [N, H V]
  View dgate;      ///< [N, H V]
  View dw;         ///< [1, V] f32 (f64 for f64)
  ConstView dy;    ///< [N, H V]
  ConstView x;     ///< [N, H V]
  ConstView gate;  ///< [N, H V]
  ConstView w;     ///< [1, V]
  double eps;

  DType dtype() const { return dy.dtype; }
  void check() const;
};

}  // namespace samba::op

namespace samba {
template <Tier>
void run_on(CpuStream&, const op::GatedNorm&);
void run_on(CudaStream&, const op::GatedNorm&);
template <Tier>
void run_on(CpuStream&, const op::GatedNormBackward&);
void run_on(CudaStream&, const op::GatedNormBackward&);
}  // namespace samba
