#include "layers/s6.h"

#include <cmath>

#include "kernels/causal_conv1d.h"
#include "kernels/run.h"
#include "kernels/selective_scan.h"

namespace samba {
namespace {

Init uniform(Index fan_in) {
  return {Init::Kind::uniform, 1 / std::sqrt(static_cast<double>(fan_in))};
}

}  // namespace

// The projection to the step keeps its own first values in every scheme: the state space part
// trains well only from steps in the range that `time_step` draws.
S6::S6(Plan plan, const Shape& shape)
    : s_(shape),
      conv_w_(plan.exact("conv.weight", s_.width, s_.taps, uniform(s_.taps))),
      conv_bias_(s_.conv_bias ? &plan.exact("conv.bias", 1, s_.width, uniform(s_.taps)) : nullptr),
      x_(plan, "x_proj", s_.width, s_.rank + 2 * s_.state, plan.scheme().linear(s_.width)),
      dt_(plan, "dt_proj", s_.rank, s_.width, uniform(s_.rank)),
      dt_bias_(plan.exact("dt_proj.bias", 1, s_.width, {Init::Kind::time_step})),
      a_log_(plan.exact("a_log", s_.width, s_.state, {Init::Kind::log_steps})),
      d_(plan.exact("d", 1, s_.width, {Init::Kind::ones})),
      conv_state_(plan.state("conv", (s_.taps - 1) * s_.width, exact_of(plan.dtype()))),
      scan_state_(plan.state("scan", s_.width * s_.state, exact_of(plan.dtype()))) {
  a_log_.packing = Packing::decay;
}

S6::Parts S6::parts(View rbc) const {
  return {rbc.columns(0, s_.rank), rbc.columns(s_.rank, s_.state),
          rbc.columns(s_.rank + s_.state, s_.state)};
}

S6::Saved S6::room_for(Pass& pass, DType dtype, Index rows) const {
  const auto matrix = [&](Index cols) { return Matrix(pass.stream, dtype, rows, cols); };
  Saved s{.c = matrix(s_.width),
          .rbc = matrix(s_.rank + 2 * s_.state),
          .y = matrix(s_.width),
          .h = Matrix()};
  const Index chunk = op::SelectiveScan::chunk_on(pass.stream);
  if (pass.training)
    s.h = Matrix(pass.stream, exact_of(dtype), op::SelectiveScan::chunks(pass.batch, chunk),
                 s_.width * s_.state);
  return s;
}

op::CausalConv1d S6::convolution(Pass& pass, ConstView x, const Saved& s) const {
  return {.y = s.c,
          .x = x,
          .w = conv_w_.value,
          .bias = conv_bias_ ? conv_bias_->value.view() : View{},
          .batch = pass.batch,
          .state = pass.state(conv_state_)};
}

void S6::forward(Pass& pass, const Inputs& in, const Saved& s) const {
  const Parts p = parts(s.rbc);
  const Matrix dt(pass.stream, s.c.dtype(), s.c.rows(), s_.width);
  x_.forward(pass, s.c, s.rbc);
  run(pass.stream, op::SelectiveScan{.y = s.y,
                                     .u = s.c,
                                     .dt = dt,
                                     .b = p.b,
                                     .c = p.c,
                                     .z = in.z,
                                     .dt_bias = dt_bias_.value,
                                     .a_log = a_log_.value,
                                     .decay = a_log_.packed,
                                     .d = d_.value,
                                     .batch = pass.batch,
                                     .state = pass.state(scan_state_),
                                     .h = s.h,
                                     .chunk = op::SelectiveScan::chunk_on(pass.stream),
                                     .dt_from = dt_.product(p.r, dt)});
}

void S6::backward(Pass& pass, const Saved& s, const Inputs& in, ConstView dy,
                  const Inputs& d) const {
  Stream& stream = pass.stream;
  const auto matrix = [&](Index cols) { return Matrix(stream, dy.dtype, dy.rows, cols); };
  Matrix drbc = matrix(s.rbc.cols()), ddt = matrix(s_.width), dc = matrix(s_.width);
  const Parts p = parts(s.rbc), dp = parts(drbc);
  // Made again, to the same bits: keeping it takes as much room as c, making it little time.
  const Matrix dt = matrix(s_.width);
  run(stream, dt_.product(p.r, dt));
  run(stream, op::SelectiveScanBackward{.du = dc,
                                        .ddt = ddt,
                                        .db = dp.b,
                                        .dc = dp.c,
                                        .dz = d.z,
                                        .ddt_bias = dt_bias_.grad,
                                        .da_log = a_log_.grad,
                                        .dd = d_.grad,
                                        .dy = dy,
                                        .u = s.c,
                                        .dt = dt,
                                        .b = p.b,
                                        .c = p.c,
                                        .z = in.z,
                                        .dt_bias = dt_bias_.value,
                                        .a_log = a_log_.value,
                                        .d = d_.value,
                                        .h = s.h,
                                        .batch = pass.batch,
                                        .chunk = op::SelectiveScan::chunk_on(stream)});
  dt_.backward(pass, p.r, ddt, dp.r);
  // c reaches the loss through the scan and through r, B and C: the second gradient's sums begin
  // with the first.
  x_.backward(pass, s.c, drbc, dc, /*add=*/true);
  run(stream, op::CausalConv1dBackward{.dx = d.x,
                                       .dw = conv_w_.grad,
                                       .dbias = conv_bias_ ? conv_bias_->grad.view() : View{},
                                       .dy = dc,
                                       .x = in.x,
                                       .w = conv_w_.value,
                                       .bias = conv_bias_ ? conv_bias_->value.view() : View{},
                                       .batch = pass.batch});
}

double S6::flops(Index length) const {
  // A state takes 7: delta * A, its exponential, decay * h, u * B, their sum, h * C, the sum over
  // S. A channel takes 8 more for softplus and the skip, and 4 for the SiLU behind the convolution.
  const double channel =
      7.0 * static_cast<double>(s_.state) + 8 + 2.0 * static_cast<double>(s_.taps) + 4;
  return x_.flops(length) + dt_.flops(length) +
         static_cast<double>(length) * static_cast<double>(s_.width) * channel;
}

}  // namespace samba
