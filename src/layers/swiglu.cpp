#include "layers/swiglu.h"

#include "core/fields.h"
#include "kernels/run.h"
#include "kernels/swiglu.h"

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
  if (!pass.training) {
    gate_up_.forward(pass, x, hidden, {.gated = true});
    return down_.forward(pass, hidden, y);
  }
  Matrix gate_up(pass.stream, x.dtype, x.rows(), 2 * width_);
  gate_up_.forward(pass, x, gate_up);
  run(pass.stream, op::SwiGlu{.y = hidden,
                              .gate = gate_up.view().columns(0, width_),
                              .up = gate_up.view().columns(width_, width_)});
  down_.forward(pass, hidden, y);
  saved_ = std::move(gate_up);
}

void SwiGlu::backward(Pass& pass, ConstView x, ConstView dy, View dx) {
  const Matrix gate_up = std::move(saved_);
  const View gate = gate_up.view().columns(0, width_), up = gate_up.view().columns(width_, width_);
  const Matrix hidden(pass.stream, x.dtype, x.rows, width_);
  down_.backward(pass, {}, dy, hidden);
  run(pass.stream,
      op::SwiGluBackward{
          .dgate = gate, .dup = up, .y = hidden, .dy = hidden, .gate = gate, .up = up});
  down_.backward(pass, hidden, dy, {});
  gate_up_.backward(pass, x, gate_up, dx);
}

double SwiGlu::flops(Index /*position*/, Index length) const {
  return gate_up_.flops(length) + down_.flops(length) +
         5.0 * static_cast<double>(width_) * static_cast<double>(length);
}

}  // namespace samba
