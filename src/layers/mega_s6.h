#pragma once

#include "layers/s6.h"

namespace samba {

/// Gated attention within chunks whose queries, keys and gates come from S6. Ma et al. 2022,
/// "Mega", section 3.2, with S6 in place of its moving average: Ren et al. 2024, "Samba",
/// "Mega-S6".
///
///   n           = rms_norm(x)                               [N, D]
///   v           = silu(n W_vᵀ + b_v)                        [N, D]
///   s           = s6(n)                                     [N, D] (layers/s6.h), without a gate
///   u, z, g, hx = silu(s) W_mᵀ + b_m                        [N, D], [N, Z], [N, D], [N, D]
///   q, k        = silu(z) gamma + beta                      [N, Z] each, with a row of both each
///   a_i         = sum_j softmax_j(q_i . k_j / sqrt(Z) + rot_i(bias_0) . rot_j(bias_1)) v_j
///                                                           floor(i / chunk) chunk <= j <= i
///   h           = silu(hx + (a * silu(g)) W_hᵀ + b_h)       [N, D]
///   out         = sigmoid(u) * (h - x)                      [N, D]
///
/// It norms its input itself: x is the residual stream. The keys' row of beta has no effect and no
/// gradient (op::MegaQueryKey); published weights have it. A sequence's state is that of
/// convolution and scan, and keys (with their rotated bias) and values of the chunk that it stands
/// in.
class MegaS6 final : public Layer {
 public:
  struct Config {
    Index chunk = 2048;
    Index z_width = 128;
    Index d_state = 16;
    Index d_conv = 4;
    Index dt_rank = 0;
    double norm_eps = 1e-5;

    void fields(auto& f) {
      f("chunk", chunk, "tokens of a chunk: a query sees the keys of its own up to itself");
      f("z_width", z_width, "width Z of queries and keys, even");
      f("d_state", d_state, "state size S of a channel");
      f("d_conv", d_conv, "taps of the convolution");
      f("dt_rank", dt_rank, "rank R of the step size; 0: d_model / 32, rounded up");
      f("norm_eps", norm_eps, "added to the mean square in the layer's own norm");
    }
  };

  MegaS6(const Config&, Index d_model, Plan);
  void forward(Pass&, const Input& in, const Output& out) override;
  void backward(Pass&, ConstView x, ConstView dy, View dx) override;
  void drop() override { saved_ = {}; }
  double flops(Index position, Index length) const override;
  bool mixes() const override { return true; }

 private:
  struct Saved {
    Matrix normal;  ///< [N, D] x over its rms
    Matrix scale;   ///< [N, 1] 1 / rms of x
    Matrix n;       ///< [N, D] x normed
    Matrix v_raw;   ///< [N, D] before SiLU
    Matrix v;       ///< [N, D]
    S6::Saved s6;
    Matrix m;      ///< [N, D] silu(s)
    Matrix gates;  ///< [N, 3D + Z] u, z, g, hx
    Matrix qk;     ///< [N, 4Z] queries, their bias, keys, their bias
    Matrix a;      ///< [N, D]
    Matrix lse;    ///< [N, 1]
    Matrix gated;  ///< [N, D] a * silu(g)
    Matrix h;      ///< [N, D] the part of h that comes through W_h
  };
  /// The columns of gates and qk, or of their gradients.
  struct Parts {
    View u, z, g, hx, q, k;
  };
  Parts parts(View gates, View qk) const;
  /// What forward writes; what only backward reads is empty unless training.
  Saved room_for(Pass&, ConstView x) const;
  /// Rotates the biases behind queries and keys.
  void rotate(Pass&, const Parts&, bool inverse) const;

  Index width_;  ///< D
  Index chunk_;
  Index z_width_;  ///< Z
  double scale_;   ///< of the scores
  double norm_eps_;
  Parameter& norm_w_;
  Linear v_;
  S6 s6_;
  Linear m_;
  Parameter& gamma_;
  Parameter& beta_;
  Parameter& bias_;
  Linear h_;
  StateId keys_;
  StateId values_;
  Saved saved_;
};

}  // namespace samba
