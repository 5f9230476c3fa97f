#include "layers/mamba.h"

#include "core/fields.h"

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

}  // namespace

Mamba::Mamba(const Config& config, Index d_model, Plan plan)
    : inner_(checked(config, d_model, plan).expand * d_model),
      in_(plan, "in_proj", d_model, 2 * inner_, plan.scheme().linear(d_model)),
      s6_(plan, {.width = inner_,
                 .state = config.d_state,
                 .taps = config.d_conv,
                 .rank = config.dt_rank == 0 ? (d_model + 15) / 16 : config.dt_rank,
                 .conv_bias = config.conv_bias}),
      out_(plan, "out_proj", inner_, d_model, plan.scheme().residual(inner_)) {}

void Mamba::forward(Pass& pass, const Input& x, const Output& y) {
  Saved s{Matrix(pass.stream, x.dtype, x.rows(), 2 * inner_),
          s6_.room_for(pass, x.dtype, x.rows())};
  const S6::Inputs uz = halves(s.uz);
  in_.forward(pass, x, s.uz, {.conv = s6_.convolution(pass, uz.x, s.s6)});
  s6_.forward(pass, uz, s.s6);
  out_.forward(pass, s.s6.y, y);
  if (pass.training) saved_ = std::move(s);
}

void Mamba::backward(Pass& pass, ConstView x, ConstView dy, View dx) {
  Saved s = std::move(saved_);
  Matrix ds6(pass.stream, x.dtype, x.rows, inner_);
  Matrix duz(pass.stream, x.dtype, x.rows, 2 * inner_);
  out_.backward(pass, s.s6.y, dy, ds6);
  s.s6.y = Matrix();  // its room serves what the scan's backward makes
  s6_.backward(pass, s.s6, halves(s.uz), ds6, halves(duz));
  in_.backward(pass, x, duz, dx);
}

double Mamba::flops(Index /*position*/, Index length) const {
  constexpr double kGate = 4;
  return in_.flops(length) + s6_.flops(length) + out_.flops(length) +
         static_cast<double>(length) * static_cast<double>(inner_) * kGate;
}

}  // namespace samba
