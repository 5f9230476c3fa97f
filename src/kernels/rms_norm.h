#pragma once

#include "core/matrix.h"
#include "core/stream.h"

namespace samba::op {

/// The step between two layers of the residual stream:
///   sum = x + add                     (sum = x where `add` is left out)
///   normal = sum / rms(sum)           rms(s) = sqrt(mean(s^2) + eps), row by row
///   y      = normal * w               of the rounded normal, which y can be made from again
/// Zhang & Sennrich 2019, "Root Mean Square Layer Normalization", eq. 4.
struct RmsNorm {
  static constexpr const char* kName = "rms_norm";

  View y;              ///< [N, D] out, the model's dtype
  View sum = {};       ///< [N, D] out, dtype of x; may be x itself; needed with `add`
  View normal = {};    ///< [N, D] out, dtype of y: for backward; may be left out
  View scale = {};     ///< [N, 1] out, dtype of x: 1 / rms, for backward; may be left out
  ConstView x;         ///< [N, D] f32 (f64 for f64)
  ConstView add = {};  ///< [N, D], dtype of y; may be left out
  ConstView w;         ///< [1, D], dtype of x
  double eps;          ///< added to the mean square

  DType dtype() const { return y.dtype; }
  void check() const;
};

/// y = x * w, each column by its weight: RmsNorm's y once more.
struct ScaleColumns {
  static constexpr const char* kName = "scale_columns";

  View y;       ///< [N, D] out
  ConstView x;  ///< [N, D] of y's dtype
  ConstView w;  ///< [1, D] f32 (f64 for f64)

  DType dtype() const { return y.dtype; }
  void check() const;
};

/// Gradients of y by sum and w. Both dx and dw are added to: dx is the gradient of the residual
/// stream, which already holds what flows past the layer.
struct RmsNormBackward {
  static constexpr const char* kName = "rms_norm_backward";

  View dx;            ///< [N, D] f32 (f64 for f64)
  View dw;            ///< [1, D] of dx's dtype
  View rounded = {};  ///< [N, D] out, dtype of dy: the new dx; may be left out
  ConstView dy;       ///< [N, D], the model's dtype
  ConstView normal;   ///< [N, D] of dy's dtype, of the forward op
  ConstView w;        ///< [1, D] of dx's dtype
  ConstView scale;    ///< [N, 1] of dx's dtype

  DType dtype() const { return dy.dtype; }
  void check() const;
};

}  // namespace samba::op

namespace samba {
template <Tier>
void run_on(CpuStream&, const op::RmsNorm&);
void run_on(CudaStream&, const op::RmsNorm&);
template <Tier>
void run_on(CpuStream&, const op::ScaleColumns&);
void run_on(CudaStream&, const op::ScaleColumns&);
template <Tier>
void run_on(CpuStream&, const op::RmsNormBackward&);
void run_on(CudaStream&, const op::RmsNormBackward&);
}  // namespace samba
