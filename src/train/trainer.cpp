#include "train/trainer.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/fields.h"

namespace samba {
namespace {

void expect(bool good, const char* key, const char* expected, double found) {
  if (!good) fail("train: ", key, ": expected ", expected, ", found ", found);
}

bool all_finite(ConstView v) {
  for (Index r = 0; r < v.rows; ++r)
    for (Index c = 0; c < v.cols; ++c) {
      const double value = v.dtype == DType::f64   ? v.row<double>(r)[c]
                           : v.dtype == DType::f32 ? v.row<float>(r)[c]
                                                   : static_cast<float>(v.row<Bf16>(r)[c]);
      if (!std::isfinite(value)) return false;
    }
  return true;
}

}  // namespace

void complete(TrainConfig& c, const ModelConfig& model) {
  if (c.length == 0) c.length = model.context;
  if (c.micro_batch == 0) c.micro_batch = c.batch;
  if (c.min_lr < 0) c.min_lr = c.lr / 10;
  expect(c.steps >= 1, "steps", "at least 1", static_cast<double>(c.steps));
  expect_size("train", "batch", c.batch);
  expect_size("train", "length", c.length);
  expect(c.micro_batch >= 1 && c.batch % c.micro_batch == 0, "micro_batch", "a divisor of batch",
         static_cast<double>(c.micro_batch));
  expect(c.lr >= 0, "lr", "0 or more", c.lr);
  expect(c.min_lr <= c.lr, "min_lr", "at most lr", c.min_lr);
  expect(c.warmup >= 0 && c.warmup < 1, "warmup", "0 or more and less than 1", c.warmup);
  expect(c.clip >= 0, "clip", "0 or more", c.clip);
  const Optimizer::Config& o = c.optimizer;
  expect(o.beta1 >= 0 && o.beta1 < 1, "beta1", "0 or more and less than 1", o.beta1);
  expect(o.beta2 >= 0 && o.beta2 < 1, "beta2", "0 or more and less than 1", o.beta2);
  expect(o.eps > 0, "eps", "more than 0", o.eps);
  expect(o.weight_decay >= 0, "weight_decay", "0 or more", o.weight_decay);
  if (c.schedule != "tokens" && c.schedule != "paper")
    fail("train: schedule: expected tokens or paper, found \"", c.schedule, "\"");
  if (c.order != "shuffled" && c.order != "paper")
    fail("train: order: expected shuffled or paper, found \"", c.order, "\"");
}

TrainingMemory training_memory(const ModelConfig& config, const Stream& stream, DType dtype,
                               const TrainConfig& train) {
  Stream rehearsal = stream.rehearsal();
  const auto held = [&] { return rehearsal.pool()->held(); };
  Model model(config, rehearsal, dtype);
  model.allocate(true);
  model.set_recompute(train.recompute);
  TrainingMemory memory{.model = held(), .optimizer = 0, .passes = 0};
  Optimizer optimizer(model, train.optimizer);
  memory.optimizer = held() - memory.model;
  const Index n = train.micro_batch * train.length;
  std::vector<Span> spans;
  for (Index i = 0; i < train.micro_batch; ++i)
    spans.push_back({i * train.length, train.length, 0, -1});
  const Matrix sums(rehearsal, DType::f64, 1, 2);
  const Matrix tokens(rehearsal, DType::i32, n, 1), targets(rehearsal, DType::i32, n, 1);
  Pass pass{rehearsal, batch_of(spans), nullptr, true};
  model.loss_and_gradient(pass, tokens, targets, 1, sums.view().columns(1, 1));
  optimizer.add_squares(sums.view().columns(0, 1));
  optimizer.step(0, 1, sums, 1);
  memory.passes = held() - memory.model - memory.optimizer;
  return memory;
}

Trainer::Trainer(Model& model, const TokenStream& data, const TrainConfig& config, std::int32_t eos)
    : model_(model), data_(data), config_(config), eos_(eos), optimizer_(model, config.optimizer) {
  model_.set_recompute(config_.recompute);
}

double Trainer::lr_after(Index steps) const {
  Schedule s{config_.lr, config_.min_lr, 0, 0};
  if (config_.schedule == "tokens") {
    // The share of the run that is over when the step is: no step has rate 0.
    s.total = static_cast<double>(config_.steps);
    s.warmup = config_.warmup * s.total;
    return s.at(static_cast<double>(steps + 1));
  }
  // The authors count passes and look at the counter before the step's last pass.
  const Index passes = config_.batch / config_.micro_batch;
  s.total = static_cast<double>(config_.steps * passes);
  s.warmup = std::floor(config_.warmup * s.total);
  return s.at(static_cast<double>(steps * passes + passes - 1));
}

void Trainer::accumulate(Index first, Index count, View sum) {
  const Index length = config_.length, n = count * length;
  std::vector<std::int32_t> window(static_cast<std::size_t>(length + 1));
  Stream& stream = model_.stream();
  const Matrix tokens(stream.host(), DType::i32, n, 1), targets(stream.host(), DType::i32, n, 1);
  std::vector<Span> spans;
  for (Index i = 0; i < count; ++i) {
    data_.read(static_cast<std::uint64_t>(steps_ * config_.batch + first + i), window);
    std::copy_n(window.begin(), length, tokens.row<std::int32_t>(i * length));
    std::copy_n(window.begin() + 1, length, targets.row<std::int32_t>(i * length));
    std::vector<Index> starts{0};
    if (config_.reset_documents)
      for (const Index start :
           document_starts(std::span(window).first(static_cast<std::size_t>(length)), eos_))
        starts.push_back(start);
    starts.push_back(length);
    for (std::size_t k = 0; k + 1 < starts.size(); ++k) {
      spans.push_back({i * length + starts[k], starts[k + 1] - starts[k], 0, -1});
      flops_ += 3 * model_.flops(0, spans.back().length);
    }
  }
  Pass pass{stream, batch_of(spans), nullptr, true};
  const double scale = 1 / static_cast<double>(config_.batch * length);
  model_.loss_and_gradient(pass, upload(stream, tokens), upload(stream, targets), scale, sum);
}

Trainer::Report Trainer::step() {
  Report report{0, 0, lr_after(steps_), config_.batch * config_.length, 0};
  // The squares of the gradients, and the loss. A GPU's queue runs to the step's end without a word
  // from here: whether the numbers are good is known there first.
  Stream& stream = model_.stream();
  const Matrix sums(stream, DType::f64, 1, 2);
  const View squares = sums.view().columns(0, 1), loss = sums.view().columns(1, 1);
  clear(stream, sums);
  model_.renew_gradients();
  flops_ = 0;
  for (Index first = 0; first < config_.batch; first += config_.micro_batch)
    accumulate(first, config_.micro_batch, loss);
  optimizer_.add_squares(squares);
  optimizer_.step(report.lr, config_.clip, sums, steps_ + 1);
  const Matrix found = download(stream, sums);
  report.loss = found.row<double>(0)[1] / static_cast<double>(report.tokens);
  report.flops = flops_;
  report.gradient_norm = std::sqrt(found.row<double>(0)[0]);
  if (!std::isfinite(report.loss) || !std::isfinite(report.gradient_norm))
    fail("train: step ", steps_ + 1, ": loss ", report.loss, ", gradient norm ",
         report.gradient_norm, "; the first tensor that is not finite: ", first_bad_tensor());
  ++steps_;
  return report;
}

std::string Trainer::first_bad_tensor() const {
  for (const Parameter& p : model_.parameters())
    if (!all_finite(download(model_.stream(), p.value))) return p.name + " (weight)";
  for (const Parameter& p : model_.parameters())
    if (!all_finite(download(model_.stream(), p.grad))) return p.name + " (gradient)";
  return "none; an activation overflowed";
}

void Trainer::restore(Index steps) {
  steps_ = steps;
  optimizer_.publish();
}

}  // namespace samba
