#pragma once

#include "layers/linear.h"

namespace samba {

/// What gated linear attention and retention share: heads of linear attention with decay
/// (op::LinearAttention), each normalised and gated before the output projection.
///
///   q, k = x W_qkᵀ;  v, g = x W_vgᵀ             [N, H K] twice, [N, H V] twice
///   q, k, v    = conv(q), conv(k), conv(v)      with short_conv
///   q, k       = rope(q), rope(k)               with rope
///   a          = attention with decay           [N, H V]
///   out        = (rms_norm(a) * silu(g)) W_outᵀ [N, D], the norm head by head
///
/// A sequence's state is a matrix [K, V] for each head and what the convolutions reach back to.
class LinearAttention : public Layer {
 public:
  void forward(Pass&, const Input& in, const Output& y) override;
  void backward(Pass&, ConstView x, ConstView dy, View dx) override;
  void drop() override { saved_ = {}; }
  double flops(Index position, Index length) const override;
  bool mixes() const override { return true; }

 protected:
  struct Shape {
    Index heads;
    Index keys;        ///< K
    Index values;      ///< V
    Index short_conv;  ///< taps of the convolutions on q, k and v; 0: none
    double norm_eps;
    Index gate_rank;   ///< of the projection that the decays come from; 0: constant decays
    double rope_base;  ///< 0: no positions
  };
  LinearAttention(const Shape&, Index d_model, const Plan&);

  /// Of `expand` * d_model, shared by the heads.
  static Index head_width(const Plan&, const char* key, double expand, Index d_model, Index heads);

 private:
  struct Saved {
    Matrix qkvg;    ///< [N, 2 H K + 2 H V], before the convolution
    Matrix qkv;     ///< [N, 2 H K + H V], behind it, where there is one
    Matrix low;     ///< [N, rank]
    Matrix gate;    ///< [N, H K]
    Matrix a;       ///< [N, H V]
    Matrix normed;  ///< [N, H V]
  };
  struct Parts {
    View q, k, v;
  };
  Index conv_width() const { return 2 * s_.heads * s_.keys + s_.heads * s_.values; }
  /// Columns of a matrix that begins with q, k and v.
  Parts parts(View qkv) const;
  void rotate(Pass&, const Parts&, bool inverse) const;

  Shape s_;
  Linear qk_;
  Linear vg_;
  Parameter* conv_w_ = nullptr;
  std::unique_ptr<Linear> gate_down_;
  std::unique_ptr<Linear> gate_up_;
  Parameter& norm_;
  Linear out_;
  StateId conv_state_ = 0;
  StateId state_;
  Saved saved_;
};

/// Yang et al. 2023, "Gated Linear Attention": the decay of a channel at a token is
/// sigmoid(x W_downᵀ W_upᵀ + b)^(1/16). No positions.
class Gla final : public LinearAttention {
 public:
  struct Config {
    Index heads = 0;
    double expand_k = 0.5;
    double expand_v = 1;
    Index gate_rank = 16;
    Index short_conv = 0;
    double norm_eps = 1e-5;

    void fields(auto& f) {
      f("heads", heads, "heads H");
      f("expand_k", expand_k, "width of all keys together as a multiple of d_model");
      f("expand_v", expand_v, "width of all values together as a multiple of d_model");
      f("gate_rank", gate_rank, "width between the two projections that the decays come from");
      f("short_conv", short_conv, "taps of a convolution on q, k and v; 0: none");
      f("norm_eps", norm_eps, "added to the mean square in the norm of the heads");
    }
  };
  Gla(const Config&, Index d_model, const Plan&);
};

/// Sun et al. 2023, "Retentive Network": head h decays by 1 - 2^(-5 - h), queries and keys are
/// rotated by their position.
class Retention final : public LinearAttention {
 public:
  struct Config {
    Index heads = 0;
    double expand_k = 1;
    double expand_v = 2;
    double rope_base = 10000;
    Index short_conv = 0;
    double norm_eps = 1e-5;

    void fields(auto& f) {
      f("heads", heads, "heads H");
      f("expand_k", expand_k, "width of all keys together as a multiple of d_model");
      f("expand_v", expand_v, "width of all values together as a multiple of d_model");
      f("rope_base", rope_base, "base of the rotation's wavelengths");
      f("short_conv", short_conv, "taps of a convolution on q, k and v; 0: none");
      f("norm_eps", norm_eps, "added to the mean square in the norm of the heads");
    }
  };
  Retention(const Config&, Index d_model, const Plan&);
};

}  // namespace samba
