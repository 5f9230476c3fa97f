#include "model/model.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "kernels/cross_entropy.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/linear.h"
#include "kernels/rms_norm.h"
#include "kernels/run.h"
#include "kernels/selective_scan.h"
#include "kernels/sum.h"
#include "layers/registry.h"

namespace samba {
namespace {

/// Logits that are held at a time: 16 MiB of f32, a few hundred rows of a large vocabulary; on a
/// GPU 512 MiB, so that the products behind them fill it.
Index rows_at_a_time(const Stream& stream, Index rows, Index vocab) {
  const Index logits = stream.cuda() == nullptr ? Index{4} << 20 : Index{128} << 20;
  constexpr Index kTile = 256;  // rows of a product's tile, at most
  Index fit = logits / vocab;
  if (fit > kTile) fit -= fit % kTile;
  return std::clamp<Index>(fit, std::min<Index>(16, rows), rows);
}

/// Parameters begin at multiples of so many elements of a block: of a cache line and more in each
/// type, so that each lies like a matrix of its own.
constexpr Index kPlaces = 64;

}  // namespace

Model::Model(ModelConfig config, Stream& stream, DType dtype)
    : config_(std::move(config)), stream_(stream), dtype_(dtype) {
  const Index d = config_.d_model;
  InitScheme scheme{config_.init == "neox", d, 0,
                    static_cast<Index>(block_lengths(config_.layers).size())};
  for (const Json& entry : config_.layers) scheme.residual_steps += layer_traits(entry).outputs;
  const Plan blank(parameters_, state_shapes_, dtype, scheme);
  Plan plan = blank.at(config_.place);
  const Init table = scheme.neox ? scheme.linear(d) : Init{Init::Kind::normal, 0.02};
  embedding_ = &plan.matrix("embedding.weight", config_.vocab, d, table);
  for (std::size_t i = 0; i < config_.layers.size(); ++i) {
    const Plan here = plan.inside(text_of("layers.", i));
    Step step{nullptr, nullptr};
    if (!layer_traits(config_.layers[i]).norms)
      step.norm = &Plan(here).exact("norm.weight", 1, d, {Init::Kind::ones});
    step.layer =
        make_layer(config_.layers[i], text_of(config_.place, ": layers[", i, ']'), d, here);
    steps_.push_back(std::move(step));
  }
  norm_ = &plan.exact("norm.weight", 1, d, {Init::Kind::ones});
  if (!config_.tied) head_ = &plan.linear("head.weight", config_.vocab, d, scheme.linear(d));
}

void Model::allocate(bool training) {
  const DType exact = exact_of(dtype_);
  if (!training) {
    for (Parameter& p : parameters_)
      p.value = Matrix(stream_, p.exact ? exact : dtype_, p.rows, p.cols);
    return;
  }
  Index counts[2] = {0, 0};
  for (Parameter& p : parameters_) {
    Index& count = counts[p.exact ? 1 : 0];
    p.first = count;
    count += (p.size() + kPlaces - 1) / kPlaces * kPlaces;
  }
  values_ = Matrix(stream_, dtype_, 1, counts[0]);
  exact_values_ = Matrix(stream_, exact, 1, counts[1]);
  gradients_ = Matrix(stream_, exact, 1, counts[0] + counts[1]);
  clear(stream_, values_);
  clear(stream_, exact_values_);
  for (Parameter& p : parameters_) {
    p.value = Matrix(p.exact ? exact_values_ : values_, p.first, p.rows, p.cols);
    p.grad = Matrix(gradients_, (p.exact ? counts[0] : 0) + p.first, p.rows, p.cols);
  }
  zero_gradients();
}

Model::Block Model::block(bool exact) const {
  const View values = exact ? exact_values_ : values_;
  return {values, gradients_.view().columns(exact ? values_.cols() : 0, values.cols)};
}

void Model::pack() {
  for (Parameter& p : parameters_) {
    const bool is_head = &p == &head_weight();
    if (p.packing == Packing::decay) {
      p.packed = Matrix(stream_, p.value.dtype(), p.cols, p.rows);
      run(stream_, op::PackDecay{.decay = p.packed, .a_log = p.value});
    } else if ((p.packing == Packing::linear || is_head) && stream_.cuda() == nullptr) {
      p.packed = Matrix(stream_, dtype_, op::PackLinear::panel_rows(p.rows),
                        op::PackLinear::panel_cols(p.cols));
      run(stream_, op::PackLinear{.panels = p.packed, .w = p.value});
    } else {
      continue;
    }
    if (&p != embedding_) p.value = Matrix();
    p.grad = Matrix();
  }
}

void Model::normalise(Pass& pass, const Parameter* norm, const Normed& normed, ConstView add) {
  if (norm == nullptr) {
    if (!add.empty()) run(pass.stream, op::Convert{.to = normed.sum, .from = add, .add = true});
    return run(pass.stream, op::Convert{.to = normed.y, .from = normed.sum});
  }
  run(pass.stream, op::RmsNorm{.y = normed.y,
                               .sum = normed.sum,
                               .normal = normed.normal,
                               .scale = normed.scale,
                               .x = normed.sum,
                               .add = add,
                               .w = norm->value,
                               .eps = config_.norm_eps});
}

void Model::forward(Pass& pass, ConstView tokens, View x) {
  const Index n = pass.batch.tokens, d = config_.d_model;
  const DType exact = exact_of(dtype_);
  expect_shape("model: tokens", tokens, n, 1, DType::i32);
  expect_shape("model: x", x, n, d, dtype_);
  saved_.clear();

  const Matrix residual(pass.stream, exact, n, d);
  run(pass.stream, op::Embedding{.y = residual, .tokens = tokens, .w = embedding_->value});
  if (!pass.training) return infer(pass, residual, x);

  const Matrix out(pass.stream, dtype_, n, d), reused(pass.stream, dtype_, n, d);
  ConstView add = {};
  for (std::size_t i = 0; i <= steps_.size(); ++i) {
    const bool last = i == steps_.size();
    const Parameter* norm = last ? norm_ : steps_[i].norm;
    SavedStep saved;
    Normed normed{last ? x : reused.view(), residual, {}, {}};
    if (norm != nullptr) {
      normed.normal = saved.normal = Matrix(pass.stream, dtype_, n, d);
      normed.scale = saved.scale = Matrix(pass.stream, exact, n, 1);
    } else {
      normed.y = saved.x = Matrix(pass.stream, dtype_, n, d);
    }
    normalise(pass, norm, normed, add);
    if (!last) {
      steps_[i].layer->forward(pass, normed.y, out);
      if (recompute_) steps_[i].layer->drop();
      add = out;
    }
    saved_.push_back(std::move(saved));
  }
}

void Model::infer(Pass& pass, View residual, View x) {
  for (const Step& step : steps_) {
    const Output sum(residual, /*adds=*/true);
    if (step.norm != nullptr) {
      const Input normed(residual, dtype_, step.norm->value, config_.norm_eps);
      step.layer->forward(pass, normed, sum);
    } else {
      const Matrix rounded(pass.stream, dtype_, residual.rows, residual.cols);
      normalise(pass, nullptr, {rounded, residual, {}, {}}, {});
      step.layer->forward(pass, rounded, sum);
    }
  }
  normalise(pass, norm_, {x, residual, {}, {}}, {});
}

void Model::head(Pass& pass, ConstView x, View logits) {
  const Parameter& w = head_weight();
  const bool packed = !w.packed.empty();
  run(pass.stream,
      op::Linear{.y = logits, .x = x, .w = packed ? w.packed : w.value, .packed = packed});
}

void Model::head_loss(Pass& pass, ConstView x, ConstView targets, View losses, View sum,
                      const HeadGradient& wanted) {
  const DType exact = exact_of(dtype_);
  const Index vocab = config_.vocab, n = x.rows, rows = rows_at_a_time(pass.stream, n, vocab);
  const bool training = !wanted.dx.empty();
  Matrix logits(pass.stream, exact, rows, vocab), own(pass.stream, exact, n, 1);
  Matrix rounded;
  if (training && dtype_ != exact) rounded = Matrix(pass.stream, dtype_, rows, vocab);
  const View each = losses.empty() ? own.view() : losses;
  for (Index first = 0; first < n; first += rows) {
    const Index count = std::min(rows, n - first);
    const View part = logits.view().block(0, count);
    const View gradient = !training         ? View{}
                          : rounded.empty() ? part
                                            : rounded.view().block(0, count);
    head(pass, x.block(first, count), part);
    run(pass.stream, op::CrossEntropy{.loss = each.block(first, count),
                                      .dlogits = gradient,
                                      .logits = part,
                                      .targets = targets.block(first, count),
                                      .scale = wanted.scale});
    if (!training) continue;
    Parameter& w = head_weight();
    run(pass.stream, op::LinearBackward{.dx = wanted.dx.block(first, count),
                                        .dw = w.grad,
                                        .dy = gradient,
                                        .x = x.block(first, count),
                                        .w = w.value,
                                        .add_dw = !w.fresh});
    w.fresh = false;
  }
  run(pass.stream, op::Sum{.sum = sum, .x = each});
}

double Model::loss(Pass& pass, ConstView tokens, ConstView targets, View losses) {
  Matrix x(pass.stream, dtype_, pass.batch.tokens, config_.d_model);
  forward(pass, tokens, x);
  const Matrix sum(pass.stream, DType::f64, 1, 1);
  clear(pass.stream, sum);
  head_loss(pass, x, targets, losses, sum, {});
  return *download(pass.stream, sum).row<double>(0);
}

double Model::loss_and_gradient(Pass& pass, ConstView tokens, ConstView targets, double scale) {
  const Matrix sum(pass.stream, DType::f64, 1, 1);
  clear(pass.stream, sum);
  loss_and_gradient(pass, tokens, targets, scale, sum);
  return *download(pass.stream, sum).row<double>(0);
}

void Model::loss_and_gradient(Pass& pass, ConstView tokens, ConstView targets, double scale,
                              View sum) {
  const Index n = pass.batch.tokens, d = config_.d_model;
  Matrix x(pass.stream, dtype_, n, d), dx(pass.stream, dtype_, n, d);
  forward(pass, tokens, x);
  head_loss(pass, x, targets, {}, sum, {dx, scale});
  backward(pass, tokens, dx);
  for (Parameter& p : parameters_)
    if (std::exchange(p.fresh, false)) clear(stream_, p.grad);
}

void Model::backward(Pass& pass, ConstView tokens, ConstView dx) {
  const Index n = pass.batch.tokens, d = config_.d_model;
  Matrix dresidual(pass.stream, exact_of(dtype_), n, d);
  clear(pass.stream, dresidual);
  Matrix dout(pass.stream, dtype_, n, d), dnormed(pass.stream, dtype_, n, d);
  // Also leaves in dout what the step before reads of the stream's gradient.
  const auto through_norm = [&](const Parameter* norm, const SavedStep& saved, ConstView dy) {
    if (norm == nullptr) {
      run(pass.stream, op::Convert{.to = dresidual, .from = dy, .add = true});
      return run(pass.stream, op::Convert{.to = dout, .from = dresidual});
    }
    run(pass.stream, op::RmsNormBackward{.dx = dresidual,
                                         .dw = norm->grad,
                                         .rounded = dout,
                                         .dy = dy,
                                         .normal = saved.normal,
                                         .w = norm->value,
                                         .scale = saved.scale});
  };
  through_norm(norm_, saved_.back(), dx);
  saved_.pop_back();
  for (std::size_t i = steps_.size(); i-- > 0;) {
    SavedStep saved = std::move(saved_.back());
    saved_.pop_back();
    if (const Parameter* norm = steps_[i].norm; norm != nullptr) {
      saved.x = Matrix(pass.stream, dtype_, n, d);
      run(pass.stream, op::ScaleColumns{.y = saved.x, .x = saved.normal, .w = norm->value});
    }
    if (recompute_) {
      const Matrix again(pass.stream, dtype_, n, d);
      steps_[i].layer->forward(pass, saved.x, again);
    }
    steps_[i].layer->backward(pass, saved.x, dout, dnormed);
    through_norm(steps_[i].norm, saved, dnormed);
  }
  run(pass.stream,
      op::EmbeddingBackward{.dw = embedding_->grad, .dy = dresidual, .tokens = tokens});
}

void Model::zero_gradients() {
  clear(stream_, gradients_);
  for (Parameter& p : parameters_) p.fresh = false;
}

void Model::renew_gradients() {
  clear(stream_, block(true).gradients);
  for (Parameter& p : parameters_)
    if (!p.exact) {
      p.fresh = p.packing == Packing::linear;
      if (!p.fresh) clear(stream_, p.grad);
    }
}

Index Model::parameter_count() const {
  Index count = 0;
  for (const Parameter& p : parameters_) count += p.size();
  return count;
}

States Model::make_states(Index slots, Index context) const {
  States states;
  for (const StateShape& shape : state_shapes_) {
    states.emplace_back(stream_, shape.dtype, slots,
                        shape.per_token ? shape.width * context : shape.width);
    clear(stream_, states.back());
  }
  return states;
}

Index Model::state_bytes(Index context) const {
  Index bytes = 0;
  for (const StateShape& shape : state_shapes_)
    bytes += shape.width * (shape.per_token ? context : 1) * size_of(shape.dtype);
  return bytes;
}

bool Model::has_growing_state() const {
  return std::any_of(state_shapes_.begin(), state_shapes_.end(),
                     [](const StateShape& shape) { return shape.per_token; });
}

bool Model::repeats() const {
  return std::all_of(steps_.begin(), steps_.end(),
                     [](const Step& step) { return step.layer->repeats(); });
}

double Model::flops(Index position, Index length) const {
  double sum =
      2.0 * static_cast<double>(config_.vocab * config_.d_model) * static_cast<double>(length);
  for (const Step& step : steps_) sum += step.layer->flops(position, length);
  return sum;
}

}  // namespace samba
