#include "layers/linear_attention.h"

#include <cmath>

#include "core/error.h"
#include "core/fields.h"
#include "kernels/causal_conv1d.h"
#include "kernels/elementwise.h"
#include "kernels/gated_norm.h"
#include "kernels/linear_attention.h"
#include "kernels/rope.h"
#include "kernels/run.h"

namespace samba {
namespace {

/// Glorot & Bengio 2010, eq. 16, with the gain 2^-2.5 of the authors' code: these projections keep
/// it where the scheme leaves a linear layer as its constructor drew it.
Init projection(const Plan& plan, Index inputs, Index outputs) {
  if (plan.scheme().neox) return plan.scheme().linear(inputs);
  return {Init::Kind::uniform, std::exp2(-2.5) * std::sqrt(6.0 / (static_cast<double>(inputs) +
                                                                  static_cast<double>(outputs)))};
}

Init residual(const Plan& plan, Index inputs, Index outputs) {
  if (plan.scheme().neox) return plan.scheme().residual(inputs);
  Init init = projection(plan, inputs, outputs);
  init.scale /= std::sqrt(static_cast<double>(plan.scheme().residual_steps));
  return init;
}

template <class Config>
Index checked_heads(const Plan& plan, const Config& c) {
  expect_size(plan.place(), "heads", c.heads);
  if (c.short_conv != 0) expect_size(plan.place(), "short_conv", c.short_conv);
  if (!(c.norm_eps >= 0)) fail(plan.place(), ": norm_eps: expected 0 or more, found ", c.norm_eps);
  return c.heads;
}

Index checked_rank(const Plan& plan, Index rank) {
  expect_size(plan.place(), "gate_rank", rank);
  return rank;
}

}  // namespace

Index LinearAttention::head_width(const Plan& plan, const char* key, double expand, Index d_model,
                                  Index heads) {
  const double all = expand * static_cast<double>(d_model);
  if (!(all >= 1) || all > static_cast<double>(kLargestSize))
    fail(plan.place(), ": ", key, ": expected a multiple of d_model = ", d_model,
         " that gives 1 to ", kLargestSize, " columns, found ", expand);
  const auto columns = static_cast<Index>(all);
  if (columns % heads != 0)
    fail(plan.place(), ": heads: expected a divisor of ", key, " * d_model = ", columns, ", found ",
         heads);
  return columns / heads;
}

LinearAttention::LinearAttention(const Shape& s, Index d_model, const Plan& plan)
    : s_(s),
      qk_(plan, "qk", d_model, 2 * s.heads * s.keys, projection(plan, d_model, s.heads * s.keys)),
      vg_(plan, "vg", d_model, 2 * s.heads * s.values,
          projection(plan, d_model, s.heads * s.values)),
      norm_(Plan(plan).exact("head_norm.weight", 1, s.values, {Init::Kind::ones})),
      out_(plan, "out", s.heads * s.values, d_model, residual(plan, s.heads * s.values, d_model)),
      state_(Plan(plan).state("memory", s.heads * s.keys * s.values, exact_of(plan.dtype()))) {
  if (s.short_conv != 0) {
    conv_w_ =
        &Plan(plan).exact("conv.weight", conv_width(), s.short_conv,
                          {Init::Kind::uniform, 1 / std::sqrt(static_cast<double>(s.short_conv))});
    conv_state_ =
        Plan(plan).state("conv", (s.short_conv - 1) * conv_width(), exact_of(plan.dtype()));
  }
  if (s.gate_rank != 0) {
    gate_down_ = std::make_unique<Linear>(plan, "gate_down", d_model, s.gate_rank,
                                          projection(plan, d_model, s.gate_rank));
    gate_up_ = std::make_unique<Linear>(plan, "gate_up", s.gate_rank, s.heads * s.keys,
                                        projection(plan, s.gate_rank, s.heads * s.keys), true);
  }
}

LinearAttention::Parts LinearAttention::parts(View qkv) const {
  const Index keys = s_.heads * s_.keys;
  return {qkv.columns(0, keys), qkv.columns(keys, keys),
          qkv.columns(2 * keys, s_.heads * s_.values)};
}

void LinearAttention::rotate(Pass& pass, const Parts& p, bool inverse) const {
  if (s_.rope_base == 0) return;
  for (const View x : {p.q, p.k})
    run(pass.stream, op::Rope{.x = x,
                              .heads = s_.heads,
                              .base = s_.rope_base,
                              .inverse = inverse,
                              .batch = pass.batch});
}

void LinearAttention::forward(Pass& pass, const Input& in, const Output& y) {
  Stream& stream = pass.stream;
  const NormedRows rows(pass, in);
  const ConstView x = rows;
  const Index n = x.rows, keys = 2 * s_.heads * s_.keys, values = s_.heads * s_.values;
  Saved s{Matrix(stream, x.dtype, n, conv_width() + values),
          Matrix(),
          Matrix(),
          Matrix(),
          Matrix(stream, x.dtype, n, values),
          Matrix(stream, x.dtype, n, values)};
  qk_.forward(pass, x, s.qkvg.view().columns(0, keys));
  vg_.forward(pass, x, s.qkvg.view().columns(keys, 2 * values));
  if (conv_w_ != nullptr) {
    s.qkv = Matrix(stream, x.dtype, n, conv_width());
    run(stream, op::CausalConv1d{.y = s.qkv,
                                 .x = s.qkvg.view().columns(0, conv_width()),
                                 .w = conv_w_->value,
                                 .batch = pass.batch,
                                 .state = pass.state(conv_state_)});
  }
  if (gate_up_ != nullptr) {
    s.low = Matrix(stream, x.dtype, n, s_.gate_rank);
    s.gate = Matrix(stream, x.dtype, n, s_.heads * s_.keys);
    gate_down_->forward(pass, x, s.low);
    gate_up_->forward(pass, s.low, s.gate);
  }
  const Parts p = parts(conv_w_ != nullptr ? s.qkv : s.qkvg);
  rotate(pass, p, false);
  run(stream, op::LinearAttention{.y = s.a,
                                  .q = p.q,
                                  .k = p.k,
                                  .v = p.v,
                                  .gate = s.gate,
                                  .heads = s_.heads,
                                  .scale = 1 / std::sqrt(static_cast<double>(s_.keys)),
                                  .batch = pass.batch,
                                  .state = pass.state(state_)});
  run(stream, op::GatedNorm{.y = s.normed,
                            .x = s.a,
                            .gate = s.qkvg.view().columns(conv_width(), values),
                            .w = norm_.value,
                            .eps = s_.norm_eps});
  out_.forward(pass, s.normed, y);
  if (pass.training) saved_ = std::move(s);
}

void LinearAttention::backward(Pass& pass, ConstView x, ConstView dy, View dx) {
  Stream& stream = pass.stream;
  Saved s = std::move(saved_);
  const Index n = x.rows, keys = 2 * s_.heads * s_.keys, values = s_.heads * s_.values;
  Matrix dnormed(stream, x.dtype, n, values), da(stream, x.dtype, n, values);
  Matrix dqkvg(stream, x.dtype, n, s.qkvg.cols()), dqkv, dgate;
  out_.backward(pass, s.normed, dy, dnormed);
  run(stream, op::GatedNormBackward{.dx = da,
                                    .dgate = dqkvg.view().columns(conv_width(), values),
                                    .dw = norm_.grad,
                                    .dy = dnormed,
                                    .x = s.a,
                                    .gate = s.qkvg.view().columns(conv_width(), values),
                                    .w = norm_.value,
                                    .eps = s_.norm_eps});
  if (conv_w_ != nullptr) dqkv = Matrix(stream, x.dtype, n, conv_width());
  if (gate_up_ != nullptr) dgate = Matrix(stream, x.dtype, n, s_.heads * s_.keys);
  const Parts p = parts(conv_w_ != nullptr ? s.qkv : s.qkvg);
  const Parts d = parts(conv_w_ != nullptr ? dqkv : dqkvg);
  run(stream, op::LinearAttentionBackward{.dq = d.q,
                                          .dk = d.k,
                                          .dv = d.v,
                                          .dgate = dgate,
                                          .dy = da,
                                          .q = p.q,
                                          .k = p.k,
                                          .v = p.v,
                                          .gate = s.gate,
                                          .heads = s_.heads,
                                          .scale = 1 / std::sqrt(static_cast<double>(s_.keys)),
                                          .batch = pass.batch});
  rotate(pass, d, true);
  if (conv_w_ != nullptr)
    run(stream, op::CausalConv1dBackward{.dx = dqkvg.view().columns(0, conv_width()),
                                         .dw = conv_w_->grad,
                                         .dy = dqkv,
                                         .x = s.qkvg.view().columns(0, conv_width()),
                                         .w = conv_w_->value,
                                         .batch = pass.batch});
  // x reaches the loss through several projections: their gradients meet in f32.
  Matrix sum(stream, exact_of(x.dtype), n, x.cols);
  qk_.backward(pass, x, dqkvg.view().columns(0, keys), sum);
  vg_.backward(pass, x, dqkvg.view().columns(keys, 2 * values), sum, /*add=*/true);
  if (gate_up_ != nullptr) {
    Matrix dlow(stream, x.dtype, n, s_.gate_rank);
    gate_up_->backward(pass, s.low, dgate, dlow);
    gate_down_->backward(pass, x, dlow, sum, /*add=*/true);
  }
  run(stream, op::Convert{.to = dx, .from = sum});
}

double LinearAttention::flops(Index /*position*/, Index length) const {
  // For each token a head's state decays, takes k v and meets q: 5 for each of its numbers.
  const double tokens = static_cast<double>(length);
  double sum = qk_.flops(length) + vg_.flops(length) + out_.flops(length) +
               5 * tokens * static_cast<double>(s_.heads * s_.keys * s_.values);
  if (gate_up_ != nullptr) sum += gate_down_->flops(length) + gate_up_->flops(length);
  if (conv_w_ != nullptr)
    sum +=
        tokens * static_cast<double>(conv_width()) * (2 * static_cast<double>(s_.short_conv) + 4);
  return sum;
}

Gla::Gla(const Config& c, Index d_model, const Plan& plan)
    : LinearAttention(
          {checked_heads(plan, c), head_width(plan, "expand_k", c.expand_k, d_model, c.heads),
           head_width(plan, "expand_v", c.expand_v, d_model, c.heads), c.short_conv, c.norm_eps,
           checked_rank(plan, c.gate_rank), 0},
          d_model, plan) {}

Retention::Retention(const Config& c, Index d_model, const Plan& plan)
    : LinearAttention(
          {checked_heads(plan, c), head_width(plan, "expand_k", c.expand_k, d_model, c.heads),
           head_width(plan, "expand_v", c.expand_v, d_model, c.heads), c.short_conv, c.norm_eps, 0,
           c.rope_base},
          d_model, plan) {
  if (!(c.rope_base > 1))
    fail(plan.place(), ": rope_base: expected more than 1, found ", c.rope_base);
  if (head_width(plan, "expand_k", c.expand_k, d_model, c.heads) % 2 != 0)
    fail(plan.place(), ": expand_k: expected an even key width for each head");
}

}  // namespace samba
