#pragma once

#include "core/matrix.h"
#include "core/stream.h"

namespace samba::op {

/// One step of AdamW over any block of parameters, with g = scale * gradient:
///   m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2
///   w = w - lr (weight_decay w + m / (1 - beta1^step) / (sqrt(v / (1 - beta2^step)) + eps))
/// Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization", algorithm 2.
///
/// scale = min(1, clip / norm) for a norm of all gradients that only the device knows yet. Nothing
/// changes where that is no number, so that nobody has to wait for it before the step is queued.
struct AdamW {
  static constexpr const char* kName = "adamw";

  View w;              ///< [1, P] f32 or f64 in and out: the master weights
  View rounded = {};   ///< [1, P] bf16 out: w for the kernels of a bf16 model; may be left out
  View m;              ///< [1, P] in and out, dtype of w
  View v;              ///< [1, P] in and out, dtype of w
  ConstView gradient;  ///< [1, P] of w's dtype
  double lr;
  double beta1;
  double beta2;
  double eps;
  double weight_decay;
  /// [1, G] f64: the sum of the squares of all gradients, the norm's, and what else has to be
  /// finite for the step to be taken; without it scale is 1.
  ConstView sums = {};
  double clip = 0;  ///< 0: scale is 1
  Index step;       ///< counts from 1

  DType dtype() const { return w.dtype; }
  void check() const;
};

/// sum += the sum of squares of x, added in double in a fixed order.
struct SumOfSquares {
  static constexpr const char* kName = "sum_of_squares";

  View sum;     ///< [1, 1] f64 in and out
  ConstView x;  ///< [R, C]

  DType dtype() const { return x.dtype; }
  void check() const;
};

}  // namespace samba::op

namespace samba {
template <Tier>
void run_on(CpuStream&, const op::AdamW&);
void run_on(CudaStream&, const op::AdamW&);
template <Tier>
void run_on(CpuStream&, const op::SumOfSquares&);
void run_on(CudaStream&, const op::SumOfSquares&);
}  // namespace samba
