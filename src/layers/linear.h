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
  /// dx is overwritten, or added to with `add`; the gradients of weight and bias are added to.
  /// Without x only dx is made, without dx only the others.
  void backward(Pass&, ConstView x, ConstView dy, View dx, bool add = false) const;
  double flops(Index tokens) const;

 private:
  Parameter& weight_;
  Parameter* bias_;  ///< null: none
};

}  // namespace samba
