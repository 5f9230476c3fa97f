#pragma once

#include "layers/linear.h"

namespace samba {

/// S6 over E channels, what Mamba and Mega-S6 share: a convolution and the selective scan. Gu & Dao
/// 2023, "Mamba", section 3 and algorithm 2.
///
///   c       = silu(conv(x))                       [N, E] causal and depthwise, d_conv taps
///   r, B, C = c W_xᵀ                              [N, R], [N, S], [N, S]
///   dt      = softplus(r W_dtᵀ + b_dt)            [N, E]
///   h_t     = exp(dt_t A) h_{t-1} + dt_t c_t B_t  [E, S] per sequence, A = -exp(A_log)
///   y       = h_t C_t + D c_t                     [N, E], times silu(z) where there is a gate z
///
/// A sequence's state is h and the last d_conv - 1 rows of x.
class S6 {
 public:
  struct Shape {
    Index width;  ///< E
    Index state;  ///< S
    Index taps;
    Index rank;  ///< R
    bool conv_bias = true;
  };
  /// What forward makes and backward reads.
  struct Saved {
    Matrix c;    ///< [N, E]
    Matrix rbc;  ///< [N, R + 2S]
    Matrix y;    ///< [N, E]
    Matrix h;    ///< [chunks, E * S]: the state before each chunk of the scan; training only
  };

  /// What it reads, or the gradients, which are overwritten: [N, E] each, z empty without a gate.
  struct Inputs {
    View x, z;
  };

  S6(Plan, const Shape&);
  /// Room for what forward makes of so many rows.
  Saved room_for(Pass&, DType, Index rows) const;
  /// The convolution of x, which goes before forward: a product that makes x may run it.
  op::CausalConv1d convolution(Pass&, ConstView x, const Saved&) const;
  void forward(Pass&, const Inputs&, const Saved&) const;
  void backward(Pass&, const Saved&, const Inputs&, ConstView dy, const Inputs& d) const;
  double flops(Index length) const;

 private:
  struct Parts {
    View r, b, c;
  };
  /// The columns of rbc, or of its gradient.
  Parts parts(View rbc) const;

  Shape s_;
  Parameter& conv_w_;
  Parameter* conv_bias_;
  Linear x_;
  Linear dt_;
  Parameter& dt_bias_;
  Parameter& a_log_;
  Parameter& d_;
  StateId conv_state_;
  StateId scan_state_;
};

}  // namespace samba
