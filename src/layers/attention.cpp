#include "layers/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/fields.h"
#include "kernels/attention_merge.h"
#include "kernels/causal_conv1d.h"
#include "kernels/delay.h"
#include "kernels/rope.h"
#include "kernels/run.h"

namespace samba {
namespace {

op::Heads checked(const Attention::Config& c, Index d_model, const Plan& plan) {
  const std::string& at = plan.place();
  expect_size(at, "heads", c.heads);
  const Index kv_heads = c.kv_heads == 0 ? c.heads : c.kv_heads;
  if (kv_heads < 1 || c.heads % kv_heads != 0)
    fail(at, ": kv_heads: expected a divisor of heads = ", c.heads, ", found ", c.kv_heads);
  if (c.head_width == 0 && d_model % c.heads != 0)
    fail(at, ": heads: expected a divisor of d_model = ", d_model, ", found ", c.heads);
  const Index width = c.head_width == 0 ? d_model / c.heads : c.head_width;
  expect_size(at, "head_width", width);
  expect_size(at, "heads * head_width", c.heads * width);
  if (c.rope && width % 2 != 0)
    fail(at, ": head_width: expected an even number with rope, found ", width);
  if (c.rope && !(c.rope_base > 1))
    fail(at, ": rope_base: expected more than 1, found ", c.rope_base);
  if (c.window && (*c.window < 1 || *c.window > kLargestSize))
    fail(at, ": window: expected 1 to ", kLargestSize, ", found ", *c.window,
         "; without the key attention is full");
  if (c.short_conv != 0) expect_size(at, "short_conv", c.short_conv);
  if (c.extend_group != 0 || c.extend_window != 0) {
    expect_size(at, "extend_group", c.extend_group);
    expect_size(at, "extend_window", c.extend_window);
    if (c.window)
      fail(at, ": extend_group: expected attention without a window, found one of ", *c.window);
    if (!c.rope) fail(at, ": extend_group: expected attention with rope, found none");
  }
  return {c.heads, kv_heads, width};
}

}  // namespace

Attention::Attention(const Config& config, Index d_model, Plan plan)
    : heads_(checked(config, d_model, plan)),
      window_(config.extend_group > 0 ? config.extend_window
                                      : config.window.value_or(std::numeric_limits<Index>::max())),
      group_(config.extend_group),
      rope_(config.rope),
      rope_base_(config.rope_base),
      qkv_(plan, "qkv", d_model, (heads_.heads + 2 * heads_.kv_heads) * heads_.width,
           plan.scheme().linear(d_model), config.qkv_bias),
      conv_w_(config.short_conv == 0
                  ? nullptr
                  : &plan.exact("conv.weight", (heads_.heads + 2 * heads_.kv_heads) * heads_.width,
                                config.short_conv,
                                {Init::Kind::uniform,
                                 1 / std::sqrt(static_cast<double>(config.short_conv))})),
      out_(plan, "out", heads_.heads * heads_.width, d_model,
           plan.scheme().residual(heads_.heads * heads_.width)) {
  const Index width = heads_.kv_heads * heads_.width;
  const auto state = [&](std::string_view name) {
    return config.window || group_ > 0 ? plan.state(name, window_ * width, plan.dtype())
                                       : plan.state_per_token(name, width, plan.dtype());
  };
  keys_ = state("keys");
  values_ = state("values");
  if (conv_w_ != nullptr)
    conv_state_ = plan.state("conv", (conv_w_->cols - 1) * conv_w_->rows, exact_of(plan.dtype()));
  if (group_ == 0) return;
  late_ = plan.state("late", window_ * 2 * width, plan.dtype());
  distant_keys_ = plan.state_per_token("distant_keys", width, plan.dtype());
  distant_values_ = plan.state_per_token("distant_values", width, plan.dtype());
}

Attention::Parts Attention::parts(View qkv) const {
  const Index q = heads_.heads * heads_.width, kv = heads_.kv_heads * heads_.width;
  return {qkv.columns(0, q), qkv.columns(q, kv), qkv.columns(q + kv, kv)};
}

double Attention::scale() const {
  return 1 / std::sqrt(static_cast<double>(heads_.width));
}

op::Rope Attention::rotation(Pass& pass, View qkv, bool inverse) const {
  if (!rope_) return {};
  const Index heads = heads_.heads + heads_.kv_heads;
  return {.x = qkv.columns(0, heads * heads_.width),
          .heads = heads,
          .base = rope_base_,
          .inverse = inverse,
          .batch = pass.batch};
}

void Attention::forward(Pass& pass, const Input& x, const Output& y) {
  const Index heads = heads_.heads, width = heads_.width;
  Saved s{Matrix(), Matrix(pass.stream, x.dtype, x.rows(), (heads + 2 * heads_.kv_heads) * width),
          Matrix(pass.stream, x.dtype, x.rows(), heads * width), Matrix()};
  if (pass.training) s.lse = Matrix(pass.stream, exact_of(x.dtype), x.rows(), heads);
  // Self-Extend wants them as they are, too, and a convolution comes first.
  const op::Rope rope = rotation(pass, s.qkv, /*inverse=*/false);
  const bool later = conv_w_ != nullptr || group_ > 0;
  if (conv_w_ == nullptr) {
    qkv_.forward(pass, x, s.qkv, {.rope = later ? op::Rope{} : rope});
  } else {
    s.raw = Matrix(pass.stream, x.dtype, x.rows(), s.qkv.cols());
    qkv_.forward(pass, x, s.raw);
    run(pass.stream, op::CausalConv1d{.y = s.qkv,
                                      .x = s.raw,
                                      .w = conv_w_->value,
                                      .batch = pass.batch,
                                      .state = pass.state(conv_state_)});
  }
  const Parts p = parts(s.qkv);
  Matrix raw;
  if (group_ > 0) {
    if (pass.training) fail("attention: Self-Extend is for inference only; found a training pass");
    raw = Matrix(pass.stream, x.dtype, x.rows(), s.qkv.cols());
    copy(pass.stream, raw, s.qkv);
    s.lse = Matrix(pass.stream, exact_of(x.dtype), x.rows(), heads);
  }
  if (later && rope_) run(pass.stream, rope);
  run(pass.stream, op::Attention{.y = s.a,
                                 .lse = s.lse,
                                 .q = p.q,
                                 .k = p.k,
                                 .v = p.v,
                                 .heads = heads_,
                                 .window = window_,
                                 .scale = scale(),
                                 .batch = pass.batch,
                                 .key_state = pass.state(keys_),
                                 .value_state = pass.state(values_)});
  if (group_ > 0) add_distant(pass, raw, s.a, s.lse);
  out_.forward(pass, s.a, y);
  if (pass.training) saved_ = std::move(s);
}

void Attention::add_distant(Pass& pass, View raw, View a, ConstView lse) {
  Stream& stream = pass.stream;
  const Parts p = parts(raw);
  const Index q = p.q.cols, kv = p.k.cols;
  // To the query at i the distant keys end with that at i - window: in a stream that is late by the
  // window, they are the keys up to its own.
  Matrix late(stream, raw.dtype, raw.rows, 2 * kv), far(stream, raw.dtype, raw.rows, q);
  Matrix far_lse(stream, lse.dtype, raw.rows, lse.cols);
  run(stream, op::Delay{.y = late,
                        .x = raw.columns(q, 2 * kv),
                        .by = window_,
                        .batch = pass.batch,
                        .state = pass.state(late_)});
  for (Index i = 0; i < pass.batch.count; ++i) {
    const Span& span = pass.batch.spans[i];
    const Index skip = std::max<Index>(0, window_ - span.position), count = span.length - skip;
    if (count <= 0) continue;
    const auto rows = [&](View x) { return x.block(span.first + skip, count); };
    const std::vector<Span> one{{0, count, span.position + skip - window_, span.slot}};
    const Batch batch = batch_of(one);
    const View keys = rows(late.view().columns(0, kv)), values = rows(late.view().columns(kv, kv));
    run(stream, op::Rope{.x = keys,
                         .heads = heads_.kv_heads,
                         .base = rope_base_,
                         .group = group_,
                         .batch = batch});
    const std::vector<Span> own{{0, count, span.position + skip, span.slot}};
    run(stream, op::Rope{.x = rows(p.q),
                         .heads = heads_.heads,
                         .base = rope_base_,
                         .group = group_,
                         .shift = window_ - window_ / group_,
                         .batch = batch_of(own)});
    run(stream, op::Attention{.y = rows(far),
                              .lse = rows(far_lse),
                              .q = rows(p.q),
                              .k = keys,
                              .v = values,
                              .heads = heads_,
                              .window = std::numeric_limits<Index>::max(),
                              .scale = scale(),
                              .batch = batch,
                              .key_state = pass.state(distant_keys_),
                              .value_state = pass.state(distant_values_)});
    run(stream, op::AttentionMerge{.y = rows(a),
                                   .lse = lse.block(span.first + skip, count),
                                   .other = rows(far),
                                   .other_lse = rows(far_lse)});
  }
}

void Attention::backward(Pass& pass, ConstView x, ConstView dy, View dx) {
  Saved s = std::move(saved_);
  Matrix da(pass.stream, x.dtype, x.rows, s.a.cols());
  out_.backward(pass, s.a, dy, da);
  Matrix dqkv(pass.stream, x.dtype, x.rows, s.qkv.cols());
  const Parts p = parts(s.qkv), d = parts(dqkv);
  run(pass.stream, op::AttentionBackward{.dq = d.q,
                                         .dk = d.k,
                                         .dv = d.v,
                                         .dy = da,
                                         .y = s.a,
                                         .lse = s.lse,
                                         .q = p.q,
                                         .k = p.k,
                                         .v = p.v,
                                         .heads = heads_,
                                         .window = window_,
                                         .scale = scale(),
                                         .batch = pass.batch});
  if (rope_) run(pass.stream, rotation(pass, dqkv, /*inverse=*/true));
  if (conv_w_ == nullptr) return qkv_.backward(pass, x, dqkv, dx);
  Matrix draw(pass.stream, x.dtype, x.rows, dqkv.cols());
  run(pass.stream, op::CausalConv1dBackward{.dx = draw,
                                            .dw = conv_w_->grad,
                                            .dy = dqkv,
                                            .x = s.raw,
                                            .w = conv_w_->value,
                                            .batch = pass.batch});
  qkv_.backward(pass, x, draw, dx);
}

double Attention::flops(Index position, Index length) const {
  // Pairs of query and key: min(p + 1, window) for each position p; a ramp, then a constant.
  const Index end = position + length;
  const Index ramp_end = std::clamp(group_ > 0 ? end : window_, position, end);
  const auto sum_to = [](Index p) {
    return 0.5 * static_cast<double>(p) * static_cast<double>(p + 1);
  };
  double pairs = sum_to(ramp_end) - sum_to(position);
  if (end > ramp_end) pairs += static_cast<double>(end - ramp_end) * static_cast<double>(window_);
  const double width = static_cast<double>(heads_.heads * heads_.width);
  // A tap is a product and a sum, SiLU four operations more.
  const double conv = conv_w_ == nullptr ? 0
                                         : static_cast<double>(conv_w_->rows * length) *
                                               (2.0 * static_cast<double>(conv_w_->cols) + 4.0);
  return qkv_.flops(length) + out_.flops(length) + conv + 4 * pairs * width;
}

}  // namespace samba
