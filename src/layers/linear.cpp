#include "layers/linear.h"

#include "kernels/linear.h"
#include "kernels/run.h"

namespace samba {

Linear::Linear(Plan plan, std::string_view name, Index inputs, Index outputs, Init init, bool bias)
    : weight_(plan.linear(std::string(name) + ".weight", outputs, inputs, init)),
      bias_(bias ? &plan.exact(std::string(name) + ".bias", 1, outputs, {Init::Kind::zeros})
                 : nullptr) {}

void Linear::forward(Pass& pass, ConstView x, View y) const {
  const bool packed = !weight_.packed.empty();
  run(pass.stream, op::Linear{.y = y,
                              .x = x,
                              .w = packed ? weight_.packed : weight_.value,
                              .bias = bias_ != nullptr ? bias_->value.view() : View{},
                              .packed = packed});
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

double Linear::flops(Index tokens) const {
  const double bias = bias_ != nullptr ? static_cast<double>(bias_->size()) : 0;
  return (2.0 * static_cast<double>(weight_.size()) + bias) * static_cast<double>(tokens);
}

}  // namespace samba
