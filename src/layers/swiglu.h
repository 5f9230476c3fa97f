#pragma once

#include "layers/linear.h"

namespace samba {

/// Gated MLP. Shazeer 2020, "GLU Variants Improve Transformer", eq. 6.
///
///   gate, up = x W_gate_upᵀ         [N, F] each
///   y        = silu(gate) * up      [N, F]
///   out      = y W_downᵀ            [N, D]
class SwiGlu final : public Layer {
 public:
  struct Config {
    Index d_ff = 0;

    void fields(auto& f) { f("d_ff", d_ff, "inner width F"); }
  };

  SwiGlu(const Config&, Index d_model, Plan);
  void forward(Pass&, const Input& x, const Output& y) override;
  void backward(Pass&, ConstView x, ConstView dy, View dx) override;
  void drop() override { saved_ = {}; }
  double flops(Index position, Index length) const override;
  bool mixes() const override { return false; }

 private:
  Index width_;
  Linear gate_up_;
  Linear down_;
  Matrix saved_;  ///< [N, 2F] gate and up; y is made again, for it is half as large as they
};

}  // namespace samba
