#pragma once

#include "layers/layer.h"

namespace samba {

/// A projection, y = x Wᵀ or y = x Wᵀ + b, W [O, I] and b [1, O]. How its weight is stored is known
/// here and in op::Linear, nowhere else.
class Linear {
 public:
  /// Parameters NAME.weight and, with `bias`, NAME.bias, which begins as zeros. For a matrix whose
  /// output joins the residual stream pass scheme().residual(inputs) as init.
  Linear(Plan plan, std::string_view name, Index inputs, Index outputs, Init init,
         bool bias = false);

  /// x: [N, I], y: [N, O] out, of x's dtype or f32.
  void forward(Pass&, ConstView x, View y) const;
  /// dx is overwritten, or added to with `add` (then f32 or f64); the gradients of weight and bias
  /// are added to. Without x only dx is made, without dx only the others.
  void backward(Pass&, ConstView x, ConstView dy, View dx, bool add = false) const;

  // Where a pair of projections and op::SwiGlu are one, y = silu(gate) * up.
  /// Of W [2 F, I], without a bias: y [N, F] out, and, unless it is left out, product [N, 2 F] out,
  /// gate and up side by side.
  void forward_gated(Pass&, ConstView x, View y, View product) const;
  /// Of the projection behind it: product [N, 2 I], of which its x was made, becomes its gradient;
  /// the gradients of weight and bias are added to.
  void backward_gated(Pass&, ConstView dy, View product) const;

  double flops(Index tokens) const;

 private:
  Parameter& weight_;
  Parameter* bias_;  ///< null: none
};

}  // namespace samba
