#pragma once

#include "layers/linear.h"

namespace samba {

/// Selective state space layer, S6. Gu & Dao 2023, "Mamba", section 3 and algorithm 2.
///
///   u, z    = x W_inᵀ                             [N, E] each, E = expand * D
///   u       = silu(conv(u))                       causal and depthwise, d_conv taps
///   r, B, C = u W_xᵀ                              [N, R], [N, S], [N, S]
///   dt      = softplus(r W_dtᵀ + b_dt)            [N, E]
///   h_t     = exp(dt_t A) h_{t-1} + dt_t u_t B_t  [E, S] per sequence, A = -exp(A_log)
///   y       = (h_t C_t + D u_t) * silu(z_t)       [N, E]
///   out     = y W_outᵀ                            [N, D]
///
/// A sequence's state is h and the last d_conv - 1 rows of u before the convolution.
class Mamba final : public Layer {
 public:
  struct Config {
    Index d_state = 16;
    Index d_conv = 4;
    Index expand = 2;
    Index dt_rank = 0;
    bool conv_bias = true;

    void fields(auto& f) {
      f("d_state", d_state, "state size S of a channel");
      f("d_conv", d_conv, "taps of the convolution");
      f("expand", expand, "inner width E as a multiple of d_model");
      f("dt_rank", dt_rank, "rank R of the step size; 0: d_model / 16, rounded up");
      f("conv_bias", conv_bias, "the convolution adds a bias");
    }
  };

  Mamba(const Config&, Index d_model, Plan);
  void forward(Pass&, ConstView x, View y) override;
  void backward(Pass&, ConstView x, ConstView dy, View dx) override;
  void drop() override { saved_ = {}; }
  double flops(Index position, Index length) const override;
  bool mixes() const override { return true; }

 private:
  struct Saved {
    Matrix uz;   ///< [N, 2E] after W_in
    Matrix u;    ///< [N, E] after the convolution
    Matrix rbc;  ///< [N, R + 2S]
    Matrix dt;   ///< [N, E] before bias and softplus
    Matrix y;    ///< [N, E]
    Matrix h;    ///< [chunks, E * S]: the state before each chunk
  };
  struct Parts {
    View u, z, r, b, c;
  };
  /// The columns of uz and rbc, or of their gradients.
  Parts parts(View uz, View rbc) const;

  Index inner_;  ///< E
  Index state_;  ///< S
  Index taps_;
  Index rank_;  ///< R
  Linear in_;
  Parameter& conv_w_;
  Parameter* conv_bias_;
  Linear x_;
  Linear dt_;
  Parameter& dt_bias_;
  Parameter& a_log_;
  Parameter& d_;
  Linear out_;
  StateId conv_state_;
  StateId scan_state_;
  Saved saved_;
};

}  // namespace samba
