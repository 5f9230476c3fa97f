#include "layers/mamba.h"

#include <cmath>

#include "core/fields.h"
#include "kernels/causal_conv1d.h"
#include "kernels/elementwise.h"
#include "kernels/run.h"
#include "kernels/selective_scan.h"

namespace samba {
namespace {

const Mamba::Config& checked(const Mamba::Config& c, Index d_model, const Plan& plan) {
  const std::string& at = plan.place();
  expect_size(at, "d_state", c.d_state);
  expect_size(at, "d_conv", c.d_conv);
  expect_size(at, "expand", c.expand);
  expect_size(at, "expand * d_model", c.expand * d_model);
  if (c.dt_rank != 0) expect_size(at, "dt_rank", c.dt_rank);
  return c;
}

Init uniform(double scale) {
  return {Init::Kind::uniform, scale};
}
double inverse_root(Index n) {
  return 1 / std::sqrt(static_cast<double>(n));
}

}  // namespace

// The projection to the step keeps its own first values in every scheme: the state space part
// trains well only from steps in the range that `time_step` draws.
Mamba::Mamba(const Config& config, Index d_model, Plan plan)
    : inner_(checked(config, d_model, plan).expand * d_model),
      state_(config.d_state),
      taps_(config.d_conv),
      rank_(config.dt_rank == 0 ? (d_model + 15) / 16 : config.dt_rank),
      in_(plan, "in_proj", d_model, 2 * inner_, plan.scheme().linear(d_model)),
      conv_w_(plan.exact("conv.weight", inner_, taps_, uniform(inverse_root(taps_)))),
      conv_bias_(config.conv_bias
                     ? &plan.exact("conv.bias", 1, inner_, uniform(inverse_root(taps_)))
                     : nullptr),
      x_(plan, "x_proj", inner_, rank_ + 2 * state_, plan.scheme().linear(inner_)),
      dt_(plan, "dt_proj", rank_, inner_, uniform(inverse_root(rank_))),
      dt_bias_(plan.exact("dt_proj.bias", 1, inner_, {Init::Kind::time_step})),
      a_log_(plan.exact("a_log", inner_, state_, {Init::Kind::log_steps})),
      d_(plan.exact("d", 1, inner_, {Init::Kind::ones})),
      out_(plan, "out_proj", inner_, d_model, plan.scheme().residual(inner_)),
      conv_state_(plan.state("conv", (taps_ - 1) * inner_, exact_of(plan.dtype()))),
      scan_state_(plan.state("scan", inner_ * state_, exact_of(plan.dtype()))) {
  a_log_.packing = Packing::decay;
}

Mamba::Parts Mamba::parts(View uz, View rbc) const {
  return {uz.columns(0, inner_), uz.columns(inner_, inner_), rbc.columns(0, rank_),
          rbc.columns(rank_, state_), rbc.columns(rank_ + state_, state_)};
}

void Mamba::forward(Pass& pass, ConstView x, View y) {
  Stream& stream = pass.stream;
  Saved s{Matrix(stream, x.dtype, x.rows, 2 * inner_),
          Matrix(stream, x.dtype, x.rows, inner_),
          Matrix(stream, x.dtype, x.rows, rank_ + 2 * state_),
          Matrix(stream, x.dtype, x.rows, inner_),
          Matrix(stream, x.dtype, x.rows, inner_),
          Matrix()};
  if (pass.training)
    s.h = Matrix(stream, exact_of(x.dtype), op::SelectiveScan::chunks(pass.batch), inner_ * state_);
  const Parts p = parts(s.uz, s.rbc);

  in_.forward(pass, x, s.uz);
  run(stream, op::CausalConv1d{.y = s.u,
                               .x = p.u,
                               .w = conv_w_.value,
                               .bias = conv_bias_ ? conv_bias_->value.view() : View{},
                               .batch = pass.batch,
                               .state = pass.state(conv_state_)});
  x_.forward(pass, s.u, s.rbc);
  dt_.forward(pass, p.r, s.dt);
  run(stream, op::SelectiveScan{.y = s.y,
                                .u = s.u,
                                .dt = s.dt,
                                .b = p.b,
                                .c = p.c,
                                .z = p.z,
                                .dt_bias = dt_bias_.value,
                                .a_log = a_log_.value,
                                .decay = a_log_.packed,
                                .d = d_.value,
                                .batch = pass.batch,
                                .state = pass.state(scan_state_),
                                .h = s.h});
  out_.forward(pass, s.y, y);
  if (pass.training) saved_ = std::move(s);
}

void Mamba::backward(Pass& pass, ConstView x, ConstView dy, View dx) {
  Stream& stream = pass.stream;
  Saved s = std::move(saved_);
  const Parts p = parts(s.uz, s.rbc);
  Matrix dscan(stream, x.dtype, x.rows, inner_);
  out_.backward(pass, s.y, dy, dscan);

  Matrix duz(stream, x.dtype, x.rows, 2 * inner_), drbc(stream, x.dtype, x.rows, s.rbc.cols());
  Matrix ddt(stream, x.dtype, x.rows, inner_);
  Matrix du(stream, x.dtype, x.rows, inner_);
  const Parts d = parts(duz, drbc);
  run(stream, op::SelectiveScanBackward{.du = du,
                                        .ddt = ddt,
                                        .db = d.b,
                                        .dc = d.c,
                                        .dz = d.z,
                                        .ddt_bias = dt_bias_.grad,
                                        .da_log = a_log_.grad,
                                        .dd = d_.grad,
                                        .dy = dscan,
                                        .u = s.u,
                                        .dt = s.dt,
                                        .b = p.b,
                                        .c = p.c,
                                        .z = p.z,
                                        .dt_bias = dt_bias_.value,
                                        .a_log = a_log_.value,
                                        .d = d_.value,
                                        .h = s.h,
                                        .batch = pass.batch});
  dt_.backward(pass, p.r, ddt, d.r);
  // u reaches the loss through the scan and through r, B and C: both gradients meet in f32.
  Matrix sum(stream, exact_of(x.dtype), x.rows, inner_);
  run(stream, op::Convert{.to = sum, .from = du});
  x_.backward(pass, s.u, drbc, sum, /*add=*/true);
  run(stream, op::Convert{.to = du, .from = sum});
  run(stream, op::CausalConv1dBackward{.dx = d.u,
                                       .dw = conv_w_.grad,
                                       .dbias = conv_bias_ ? conv_bias_->grad.view() : View{},
                                       .dy = du,
                                       .x = p.u,
                                       .w = conv_w_.value,
                                       .bias = conv_bias_ ? conv_bias_->value.view() : View{},
                                       .batch = pass.batch});
  in_.backward(pass, x, duz, dx);
}

double Mamba::flops(Index /*position*/, Index length) const {
  const double tokens = static_cast<double>(length), inner = static_cast<double>(inner_);
  // A state takes 7: delta * A, its exponential, decay * h, u * B, their sum, h * C, the sum over
  // S. A channel takes 12 more for softplus, the skip and the gate.
  const double scan = inner * (7.0 * static_cast<double>(state_) + 12.0);
  const double conv = inner * (2.0 * static_cast<double>(taps_) + 4.0);
  return in_.flops(length) + x_.flops(length) + dt_.flops(length) + out_.flops(length) +
         tokens * (scan + conv);
}

}  // namespace samba
