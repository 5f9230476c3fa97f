#include "layers/swiglu.h"

#include "core/fields.h"

namespace samba {
namespace {

Index checked(const SwiGlu::Config& config, const Plan& plan) {
  expect_size(plan.place(), "d_ff", config.d_ff);
  return config.d_ff;
}

}  // namespace

SwiGlu::SwiGlu(const Config& config, Index d_model, Plan plan)
    : width_(checked(config, plan)),
      gate_up_(plan, "gate_up", d_model, 2 * width_, plan.scheme().linear(d_model)),
      down_(plan, "down", width_, d_model, plan.scheme().residual(width_)) {}

void SwiGlu::forward(Pass& pass, const Input& x, const Output& y) {
  const Matrix hidden(pass.stream, x.dtype, x.rows(), width_);
  if (pass.training) saved_ = Matrix(pass.stream, x.dtype, x.rows(), 2 * width_);
  gate_up_.forward(pass, x, hidden,
                   {.gated = true, .product = pass.training ? saved_.view() : View{}});
  down_.forward(pass, hidden, y);
}

void SwiGlu::backward(Pass& pass, ConstView x, ConstView dy, View dx) {
  const Matrix gate_up = std::move(saved_);
  down_.backward_gated(pass, dy, gate_up);
  gate_up_.backward(pass, x, gate_up, dx);
}

double SwiGlu::flops(Index /*position*/, Index length) const {
  return gate_up_.flops(length) + down_.flops(length) +
         5.0 * static_cast<double>(width_) * static_cast<double>(length);
}

}  // namespace samba
