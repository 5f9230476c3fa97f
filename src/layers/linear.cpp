#include "layers/linear.h"

#include "kernels/elementwise.h"
#include "kernels/rms_norm.h"
#include "kernels/run.h"

namespace samba {

Linear::Linear(Plan plan, std::string_view name, Index inputs, Index outputs, Init init, bool bias)
    : weight_(plan.linear(std::string(name) + ".weight", outputs, inputs, init)),
      bias_(bias ? &plan.exact(std::string(name) + ".bias", 1, outputs, {Init::Kind::zeros})
                 : nullptr) {}

void Linear::forward(Pass& pass, const Input& x, const Output& y, const Then& then) const {
  // A product begins with a bias or with what it adds to.
  if (y.add && bias_ != nullptr) {
    const OwnRows own(pass, y, x.dtype);
    forward(pass, x, own);
    return own.leave(pass);
  }
  run(pass.stream, product(x, y, then));
}

op::Linear Linear::product(const Input& x, const Output& y, const Then& then) const {
  const bool packed = !weight_.packed.empty();
  return {.y = y.y,
          .x = x.x,
          .w = packed ? weight_.packed : weight_.value,
          .bias = bias_ != nullptr ? bias_->value.view() : View{},
          .packed = packed,
          .add = y.add,
          .gated = then.gated,
          .product = then.product,
          .norm = x.norm,
          .eps = x.eps,
          .rope = then.rope,
          .conv = then.conv};
}

void Linear::backward(Pass& pass, ConstView x, ConstView dy, View dx, bool add) const {
  const bool parameters = !x.empty();
  run(pass.stream,
      op::LinearBackward{.dx = dx,
                         .dw = parameters ? weight_.grad.view() : View{},
                         .dbias = parameters && bias_ != nullptr ? bias_->grad.view() : View{},
                         .dy = dy,
                         .x = x,
                         .w = weight_.value,
                         .add_dx = add,
                         .add_dw = !weight_.fresh});
  if (parameters) weight_.fresh = false;
}

NormedRows::NormedRows(Pass& pass, const Input& in) : rows_(in.x) {
  if (in.norm.empty()) return;
  own_ = Matrix(pass.stream, in.dtype, in.x.rows, in.x.cols);
  run(pass.stream, op::RmsNorm{.y = own_, .x = in.x, .w = in.norm, .eps = in.eps});
  rows_ = own_;
}

OwnRows::OwnRows(Pass& pass, const Output& to, DType dtype) : to_(to), rows_(to.y) {
  if (!to.add) return;
  own_ = Matrix(pass.stream, dtype, to.y.rows, to.y.cols);
  rows_ = own_;
}

void OwnRows::leave(Pass& pass) const {
  if (to_.add) run(pass.stream, op::Convert{.to = to_.y, .from = rows_, .add = true});
}

void Linear::backward_gated(Pass& pass, ConstView dy, View product) const {
  const Matrix x(pass.stream, dy.dtype, dy.rows, product.cols / 2);
  run(pass.stream, op::LinearBackward{.dw = weight_.grad,
                                      .dbias = bias_ != nullptr ? bias_->grad.view() : View{},
                                      .dy = dy,
                                      .x = x,
                                      .w = weight_.value,
                                      .add_dw = !weight_.fresh,
                                      .product = product,
                                      .again = x});
  weight_.fresh = false;
}

double Linear::flops(Index tokens) const {
  const double bias = bias_ != nullptr ? static_cast<double>(bias_->size()) : 0;
  return (2.0 * static_cast<double>(weight_.size()) + bias) * static_cast<double>(tokens);
}

}  // namespace samba
