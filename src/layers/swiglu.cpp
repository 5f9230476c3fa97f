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

void SwiGlu::forward(Pass& pass, ConstView x, View y) {
  Saved s{Matrix(pass.stream, x.dtype, x.rows, 2 * width_),
          Matrix(pass.stream, x.dtype, x.rows, width_)};
  gate_up_.forward(pass, x, s.gate_up);
  run(pass.stream, op::SwiGlu{.y = s.y,
                              .gate = s.gate_up.view().columns(0, width_),
                              .up = s.gate_up.view().columns(width_, width_)});
  down_.forward(pass, s.y, y);
  if (pass.training) saved_ = std::move(s);
}

void SwiGlu::backward(Pass& pass, ConstView x, ConstView dy, View dx) {
  Saved s = std::move(saved_);
  const View gate = s.gate_up.view().columns(0, width_);
  const View up = s.gate_up.view().columns(width_, width_);
  Matrix dhidden(pass.stream, x.dtype, x.rows, width_);
  down_.backward(pass, s.y, dy, dhidden);
  run(pass.stream,
      op::SwiGluBackward{.dgate = gate, .dup = up, .dy = dhidden, .gate = gate, .up = up});
  gate_up_.backward(pass, x, s.gate_up, dx);
}

double SwiGlu::flops(Index /*position*/, Index length) const {
  return gate_up_.flops(length) + down_.flops(length) +
         5.0 * static_cast<double>(width_) * static_cast<double>(length);
}

}  // namespace samba
