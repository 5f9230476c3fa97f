#pragma once

#include "core/matrix.h"
#include "core/stream.h"

namespace samba::op {

/// The step between two layers of the residual stream:
///   sum = x + add                     (sum = x where `add` is left out)
///   y   = sum / rms(sum) * w          rms(s) = sqrt(mean(s^2) + eps), row by row
/// Zhang & Sennrich 2019, "Root Mean Square Layer Normalization", eq. 4.
struct RmsNorm {
  static constexpr const char* kName = "rms_norm";

  View y;              ///< [N, D] out, the model's dtype
  View sum = {};       ///< [N, D] out, dtype of x; may be x itself; needed with `add`
  View scale = {};     ///< [N, 1] out, dtype of x: 1 / rms, for backward; may be left out
  ConstView x;         ///< [N, D] f32 (f64 for f64)
  ConstView add = {};  ///< [N, D], dtype of y; may be left out
  ConstView w;         ///< [1, D], dtype of x
  double eps;          ///< added to the mean square

  DType dtype() const { return y.dtype; }
  void check() const;
};

/// Gradients of y by sum and w. Both dx and dw are added to: dx is the gradient of the residual
/// stream, which already holds what flows past the layer.
struct RmsNormBackward {
  static constexpr const char* kName = "rms_norm_backward";

  View dx;          ///< [N, D] f32 (f64 for f64)
  View dw;          ///< [1, D] of dx's dtype
  ConstView dy;     ///< [N, D], the model's dtype
  ConstView x;      ///< [N, D] of dx's dtype: `sum` of the forward op
  ConstView w;      ///< [1, D] of dx's dtype
  ConstView scale;  ///< [N, 1] of dx's dtype

  DType dtype() const { return dy.dtype; }
  void check() const;
};

}  // namespace samba::op

namespace samba {
template <Tier> void run_on(CpuStream&, const op::RmsNorm&);
template <Tier> void run_on(CpuStream&, const op::RmsNormBackward&);
}  // namespace samba
