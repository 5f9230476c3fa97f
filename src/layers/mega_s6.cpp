#include "layers/mega_s6.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/fields.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/mega.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/run.h"
#include "kernels/silu.h"
#include "kernels/swiglu.h"

namespace samba {
namespace {

constexpr double kRotationBase = 10000;
constexpr double kDeviation = 0.02;  // of the first weights

const MegaS6::Config& checked(const MegaS6::Config& c, const Plan& plan) {
  const std::string& at = plan.place();
  expect_size(at, "chunk", c.chunk);
  expect_size(at, "z_width", c.z_width);
  if (c.z_width % 2 != 0) fail(at, ": z_width: expected an even number, found ", c.z_width);
  expect_size(at, "d_state", c.d_state);
  expect_size(at, "d_conv", c.d_conv);
  if (c.dt_rank != 0) expect_size(at, "dt_rank", c.dt_rank);
  if (!(c.norm_eps >= 0)) fail(at, ": norm_eps: expected 0 or more, found ", c.norm_eps);
  return c;
}

Init normal() {
  return {Init::Kind::normal, kDeviation};
}
/// Mega's own first weights, where the scheme does not draw those of every projection.
Init projection(const Plan& plan, Index fan_in) {
  return plan.scheme().neox ? plan.scheme().linear(fan_in) : normal();
}

}  // namespace

MegaS6::MegaS6(const Config& config, Index d_model, Plan plan)
    : width_(d_model),
      chunk_(checked(config, plan).chunk),
      z_width_(config.z_width),
      scale_(1 / std::sqrt(static_cast<double>(z_width_))),
      norm_eps_(config.norm_eps),
      norm_w_(plan.exact("norm.weight", 1, d_model, {Init::Kind::ones})),
      v_(plan, "v_proj", d_model, d_model, projection(plan, d_model), /*bias=*/true),
      s6_(plan, {.width = d_model,
                 .state = config.d_state,
                 .taps = config.d_conv,
                 .rank = config.dt_rank == 0 ? (d_model + 31) / 32 : config.dt_rank}),
      m_(plan, "m_proj", d_model, 3 * d_model + z_width_, projection(plan, d_model), /*bias=*/true),
      gamma_(plan.exact("gamma", 2, z_width_, normal())),
      beta_(plan.exact("beta", 2, z_width_, {Init::Kind::zeros})),
      bias_(plan.exact("position_bias", 2, z_width_, normal())),
      h_(plan, "h_proj", d_model, d_model, projection(plan, d_model), /*bias=*/true),
      keys_(plan.state("keys", chunk_ * 2 * z_width_, plan.dtype())),
      values_(plan.state("values", chunk_ * d_model, plan.dtype())) {}

MegaS6::Parts MegaS6::parts(View gates, View qk) const {
  return {gates.columns(0, width_),
          gates.columns(width_, z_width_),
          gates.columns(width_ + z_width_, width_),
          gates.columns(2 * width_ + z_width_, width_),
          qk.columns(0, 2 * z_width_),
          qk.columns(2 * z_width_, 2 * z_width_)};
}

void MegaS6::rotate(Pass& pass, const Parts& p, bool inverse) const {
  for (const View& x : {p.q, p.k})
    run(pass.stream, op::Rope{.x = x.columns(z_width_, z_width_),
                              .heads = 1,
                              .base = kRotationBase,
                              .inverse = inverse,
                              .batch = pass.batch});
}

MegaS6::Saved MegaS6::room_for(Pass& pass, ConstView x) const {
  const auto matrix = [&](Index cols) { return Matrix(pass.stream, x.dtype, x.rows, cols); };
  Saved s{.normal = Matrix(),
          .scale = Matrix(),
          .n = matrix(width_),
          .v_raw = matrix(width_),
          .v = matrix(width_),
          .s6 = {},
          .m = matrix(width_),
          .gates = matrix(3 * width_ + z_width_),
          .qk = matrix(4 * z_width_),
          .a = matrix(width_),
          .lse = Matrix(),
          .gated = matrix(width_),
          .h = matrix(width_)};
  if (pass.training) {
    const DType exact = exact_of(x.dtype);
    s.normal = Matrix(pass.stream, x.dtype, x.rows, width_);
    s.scale = Matrix(pass.stream, exact, x.rows, 1);
    s.lse = Matrix(pass.stream, exact, x.rows, 1);
  }
  return s;
}

void MegaS6::forward(Pass& pass, const Input& in, const Output& out) {
  Stream& stream = pass.stream;
  const NormedRows rows(pass, in);
  const ConstView x = rows;
  const OwnRows y(pass, out, x.dtype);
  Saved s = room_for(pass, x);
  const Parts p = parts(s.gates, s.qk);

  const Matrix wide(stream, exact_of(x.dtype), x.rows, width_);
  run(stream, op::Convert{.to = wide, .from = x});
  run(stream, op::RmsNorm{.y = s.n,
                          .normal = s.normal,
                          .scale = s.scale,
                          .x = wide,
                          .w = norm_w_.value,
                          .eps = norm_eps_});
  v_.forward(pass, s.n, s.v_raw);
  run(stream, op::Silu{.y = s.v, .x = s.v_raw});
  s.s6 = s6_.room_for(pass, x.dtype, x.rows);
  run(stream, s6_.convolution(pass, s.n, s.s6));
  s6_.forward(pass, {s.n, {}}, s.s6);
  run(stream, op::Silu{.y = s.m, .x = s.s6.y});
  m_.forward(pass, s.m, s.gates);
  run(stream, op::MegaQueryKey{.q = p.q,
                               .k = p.k,
                               .z = p.z,
                               .gamma = gamma_.value,
                               .beta = beta_.value.view().block(0, 1),
                               .bias = bias_.value,
                               .scale = scale_});
  rotate(pass, p, false);
  run(stream, op::Attention{.y = s.a,
                            .lse = s.lse,
                            .q = p.q,
                            .k = p.k,
                            .v = s.v,
                            .heads = {1, 1, 2 * z_width_, width_},
                            .window = chunk_,
                            .chunked = true,
                            .scale = scale_,
                            .batch = pass.batch,
                            .key_state = pass.state(keys_),
                            .value_state = pass.state(values_)});
  run(stream, op::SwiGlu{.y = s.gated, .gate = p.g, .up = s.a});
  h_.forward(pass, s.gated, s.h);
  run(stream, op::MegaGate{.y = y, .u = p.u, .h = s.h, .hx = p.hx, .x = x});
  y.leave(pass);
  if (pass.training) saved_ = std::move(s);
}

void MegaS6::backward(Pass& pass, ConstView x, ConstView dy, View dx) {
  Stream& stream = pass.stream;
  Saved s = std::move(saved_);
  const Index n = x.rows, width = width_;
  const DType type = x.dtype, exact = exact_of(type);
  const auto matrix = [&](Index cols) { return Matrix(stream, type, n, cols); };
  Matrix dgates = matrix(s.gates.cols()), dqk = matrix(s.qk.cols()), sum(stream, exact, n, width);
  const Parts p = parts(s.gates, s.qk), d = parts(dgates, dqk);

  run(stream,
      op::MegaGateBackward{
          .du = d.u, .dh = d.hx, .dx = sum, .dy = dy, .u = p.u, .h = s.h, .hx = p.hx, .x = x});
  Matrix dgated = matrix(width), da = matrix(width), dv = matrix(width);
  h_.backward(pass, s.gated, d.hx, dgated);
  run(stream, op::SwiGluBackward{.dgate = d.g, .dup = da, .dy = dgated, .gate = p.g, .up = s.a});
  run(stream, op::AttentionBackward{.dq = d.q,
                                    .dk = d.k,
                                    .dv = dv,
                                    .dy = da,
                                    .y = s.a,
                                    .lse = s.lse,
                                    .q = p.q,
                                    .k = p.k,
                                    .v = s.v,
                                    .heads = {1, 1, 2 * z_width_, width},
                                    .window = chunk_,
                                    .chunked = true,
                                    .scale = scale_,
                                    .batch = pass.batch});
  rotate(pass, d, true);
  run(stream, op::MegaQueryKeyBackward{.dz = d.z,
                                       .dgamma = gamma_.grad,
                                       .dbeta = beta_.grad.view().block(0, 1),
                                       .dbias = bias_.grad,
                                       .dq = d.q,
                                       .dk = d.k,
                                       .z = p.z,
                                       .gamma = gamma_.value,
                                       .scale = scale_});
  Matrix dm = matrix(width), dn = matrix(width);
  m_.backward(pass, s.m, dgates, dm);
  run(stream, op::SiluBackward{.dx = dm, .dy = dm, .x = s.s6.y});
  s6_.backward(pass, s.s6, {s.n, {}}, dm, {dn, {}});
  run(stream, op::SiluBackward{.dx = dv, .dy = dv, .x = s.v_raw});
  v_.backward(pass, s.n, dv, dn, /*add=*/true);
  run(stream, op::RmsNormBackward{.dx = sum,
                                  .dw = norm_w_.grad,
                                  .dy = dn,
                                  .normal = s.normal,
                                  .w = norm_w_.value,
                                  .scale = s.scale});
  run(stream, op::Convert{.to = dx, .from = sum});
}

double MegaS6::flops(Index position, Index length) const {
  const auto real = [](Index i) { return static_cast<double>(i); };
  // Pairs of query and key: whole chunks, and what is begun of one.
  const auto pairs_to = [&](Index p) {
    const double rest = real(p % chunk_);
    return real(p / chunk_) * 0.5 * real(chunk_) * real(chunk_ + 1) + 0.5 * rest * (rest + 1);
  };
  const double pairs = pairs_to(position + length) - pairs_to(position);
  // A channel takes 4 operations for the norm and 4 for each of the six nonlinear functions, 3
  // products and 3 sums.
  constexpr double kChannel = 34;
  return v_.flops(length) + s6_.flops(length) + m_.flops(length) + h_.flops(length) +
         real(length * width_) * kChannel + 2 * pairs * real(2 * z_width_ + width_);
}

}  // namespace samba
