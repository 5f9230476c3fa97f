#include "train/optimizer.h"

#include <unordered_map>

#include "core/error.h"
#include "kernels/adamw.h"
#include "kernels/elementwise.h"
#include "kernels/run.h"

namespace samba {
namespace {

constexpr bool kKinds[] = {false, true};  // of blocks: exact?

}  // namespace

Optimizer::Optimizer(Model& model, const Config& config) : model_(model), config_(config) {
  if (config.decay != "matrices" && config.decay != "all")
    fail("decay: expected matrices or all, found \"", config.decay, "\"");
  Stream& stream = model.stream();
  const DType exact = exact_of(model.dtype());
  for (const bool is_exact : kKinds) {
    const Model::Block of = model.block(is_exact);
    const Index count = of.values.cols;
    const bool copies = of.values.dtype != exact;
    blocks_.push_back({.of = of,
                       .master = copies ? Matrix(stream, exact, 1, count) : Matrix(),
                       .m = Matrix(stream, exact, 1, count),
                       .v = Matrix(stream, exact, 1, count),
                       .decays = config.decay == "all" || !is_exact});
    clear(stream, blocks_.back().m);
    clear(stream, blocks_.back().v);
    if (copies) run(stream, op::Convert{.to = blocks_.back().master, .from = of.values});
  }
  for (Parameter& p : model.parameters()) {
    const Block& block = blocks_[p.exact ? 1 : 0];
    const auto part = [&](const Matrix& whole) {
      return whole.empty() ? Matrix() : Matrix(whole, p.first, p.rows, p.cols);
    };
    slots_.push_back({&p, part(block.master), part(block.m), part(block.v)});
  }
}

void Optimizer::start(const std::function<void(const Destination&)>& read) {
  std::unordered_map<const Parameter*, View> weights;
  for (const Slot& slot : slots_) weights[slot.parameter] = slot.weights();
  read([&](const Parameter& p) { return weights.at(&p); });
  publish();
}

void Optimizer::add_squares(View sum) const {
  run(model_.stream(), op::SumOfSquares{.sum = sum, .x = model_.gradients()});
}

void Optimizer::step(double lr, double clip, ConstView sums, Index step) {
  for (const Block& block : blocks_)
    run(model_.stream(),
        op::AdamW{.w = block.master.empty() ? block.of.values : block.master.view(),
                  .rounded = block.master.empty() ? View{} : block.of.values,
                  .m = block.m,
                  .v = block.v,
                  .gradient = block.of.gradients,
                  .lr = lr,
                  .beta1 = config_.beta1,
                  .beta2 = config_.beta2,
                  .eps = config_.eps,
                  .weight_decay = block.decays ? config_.weight_decay : 0,
                  .sums = sums,
                  .clip = clip,
                  .step = step});
}

void Optimizer::publish() {
  for (const Block& block : blocks_)
    if (!block.master.empty())
      run(model_.stream(), op::Convert{.to = block.of.values, .from = block.master});
}

}  // namespace samba
