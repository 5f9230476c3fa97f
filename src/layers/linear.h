#pragma once

#include "kernels/linear.h"
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

  /// What becomes of its sums, as in op::Linear.
  struct Then {
    bool gated = false;          ///< W holds gates and as many others: y is [N, O / 2]
    View product = {};           ///< [N, O] out, both of these; may be left out
    op::Rope rope = {};          ///< of the first columns of y
    op::CausalConv1d conv = {};  ///< likewise
  };
  /// x: [N, I], y: [N, O], of the model's dtype or f32.
  void forward(Pass&, const Input& x, const Output& y, const Then& = {false, {}, {}, {}}) const;
  /// The same for an op that multiplies on its way; where y is added to, without a bias.
  op::Linear product(const Input& x, const Output& y, const Then& = {false, {}, {}, {}}) const;
  /// dx is overwritten, or added to with `add`; the gradients of weight and bias
  /// are added to. Without x only dx is made, without dx only the others.
  void backward(Pass&, ConstView x, ConstView dy, View dx, bool add = false) const;

  /// Of the projection behind a gated one: `product` [N, 2 I], of which its x was made, becomes its
  /// gradient; the gradients of weight and bias are added to.
  void backward_gated(Pass&, ConstView dy, View product) const;

  double flops(Index tokens) const;

 private:
  Parameter& weight_;
  Parameter* bias_;  ///< null: none
};

/// An input's rows behind its norm, for layers that read them with more than one Linear, or
/// otherwise.
class NormedRows {
 public:
  NormedRows(Pass&, const Input&);
  operator ConstView() const { return rows_; }  // NOLINT(google-explicit-constructor)

 private:
  Matrix own_;  ///< empty: there was no norm
  ConstView rows_;
};

/// An output's rows of the model's dtype, for layers that make them with an op that cannot add.
class OwnRows {
 public:
  OwnRows(Pass&, const Output&, DType);
  operator View() const { return rows_; }  // NOLINT(google-explicit-constructor)
  /// Adds them to the stream, if that is where they go.
  void leave(Pass&) const;

 private:
  Output to_;
  Matrix own_;  ///< empty: they overwrite
  View rows_;
};

}  // namespace samba
