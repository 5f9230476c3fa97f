#pragma once

#include "layers/s6.h"

namespace samba {

/// Selective state space layer. Gu & Dao 2023, "Mamba", figure 3.
///
///   u, z = x W_inᵀ     [N, E] each, E = expand * D
///   y    = s6(u, z)    [N, E] (layers/s6.h), z its gate
///   out  = y W_outᵀ    [N, D]
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
  void forward(Pass&, const Input& x, const Output& y) override;
  void backward(Pass&, ConstView x, ConstView dy, View dx) override;
  void drop() override { saved_ = {}; }
  double flops(Index position, Index length) const override;
  bool mixes() const override { return true; }

 private:
  struct Saved {
    Matrix uz;  ///< [N, 2E]
    S6::Saved s6;
  };
  /// The halves of uz, or of its gradient.
  S6::Inputs halves(View uz) const { return {uz.columns(0, inner_), uz.columns(inner_, inner_)}; }

  Index inner_;  ///< E
  Linear in_;
  S6 s6_;
  Linear out_;
  Saved saved_;
};

}  // namespace samba
