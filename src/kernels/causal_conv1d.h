#pragma once

#include "core/matrix.h"
#include "core/stream.h"
#include "kernels/batch.h"

namespace samba::op {

/// Causal depthwise convolution along each span, then SiLU:
///   y_t = silu(bias + sum_j w[:, j] x_{t - taps + 1 + j})     zeros before the document
/// the last tap multiplies the current token. Gu & Dao 2023, "Mamba", figure 3.
///
/// A sequence's state is its last taps - 1 rows of x, oldest first.
struct CausalConv1d {
  static constexpr const char* kName = "causal_conv1d";

  View y;               ///< [N, E] out
  ConstView x;          ///< [N, E] of y's dtype
  ConstView w;          ///< [E, taps] f32 (f64 for f64)
  ConstView bias = {};  ///< [1, E] of w's dtype; may be left out
  Batch batch;
  View state = {};  ///< [slots, (taps - 1) * E] in and out, of w's dtype; may be left out

  DType dtype() const { return y.dtype; }
  void check() const;
};

/// Gradients of CausalConv1d for spans without a slot. dx is overwritten, dw and dbias are added
/// to.
struct CausalConv1dBackward {
  static constexpr const char* kName = "causal_conv1d_backward";

  View dx;              ///< [N, E]
  View dw;              ///< [E, taps] f32 (f64 for f64)
  View dbias = {};      ///< [1, E] of dw's dtype; left out with the bias
  ConstView dy;         ///< [N, E]
  ConstView x;          ///< [N, E]
  ConstView w;          ///< [E, taps]
  ConstView bias = {};  ///< [1, E]
  Batch batch;

  DType dtype() const { return dy.dtype; }
  void check() const;
};

}  // namespace samba::op

namespace samba {
template <Tier>
void run_on(CpuStream&, const op::CausalConv1d&);
void run_on(CudaStream&, const op::CausalConv1d&);
template <Tier>
void run_on(CpuStream&, const op::CausalConv1dBackward&);
void run_on(CudaStream&, const op::CausalConv1dBackward&);
}  // namespace samba
