#include "train/optimizer.h"

#include <cmath>

#include "core/error.h"
#include "kernels/adamw.h"
#include "kernels/elementwise.h"
#include "kernels/run.h"

namespace samba {
namespace {

/// All elements as one row; parameters are contiguous.
View flat(View v) {
  return {v.data, 1, v.rows * v.cols, v.rows * v.cols, v.dtype};
}

}  // namespace

Optimizer::Optimizer(Model& model, const Config& config) : model_(model), config_(config) {
  if (config.decay != "matrices" && config.decay != "all")
    fail("decay: expected matrices or all, found \"", config.decay, "\"");
  Stream& stream = model.stream();
  const DType exact = exact_of(model.dtype());
  for (Parameter& p : model.parameters()) {
    Slot slot{&p, Matrix(), Matrix(stream, exact, p.rows, p.cols),
              Matrix(stream, exact, p.rows, p.cols)};
    clear(stream, slot.m);
    clear(stream, slot.v);
    if (p.value.dtype() != exact) {
      slot.master = Matrix(stream, exact, p.rows, p.cols);
      run(stream, op::Convert{.to = slot.master, .from = p.value});
    }
    slots_.push_back(std::move(slot));
  }
}

double Optimizer::gradient_norm() const {
  const Matrix sum(model_.stream(), DType::f64, 1, 1);
  clear(model_.stream(), sum);
  for (const Slot& slot : slots_)
    run(model_.stream(), op::SumOfSquares{.sum = sum, .x = flat(slot.parameter->grad)});
  return std::sqrt(*download(model_.stream(), sum).row<double>(0));
}

void Optimizer::step(double lr, double clip, double norm, Index step) {
  const double scale = clip > 0 && norm > clip ? clip / norm : 1;
  for (Slot& slot : slots_) {
    const bool matrix = !slot.parameter->exact;
    const bool decays = config_.decay == "all" || matrix;
    run(model_.stream(),
        op::AdamW{.w = flat(slot.weights()),
                  .rounded = slot.master.empty() ? View{} : flat(slot.parameter->value),
                  .m = flat(slot.m),
                  .v = flat(slot.v),
                  .gradient = flat(slot.parameter->grad),
                  .lr = lr,
                  .beta1 = config_.beta1,
                  .beta2 = config_.beta2,
                  .eps = config_.eps,
                  .weight_decay = decays ? config_.weight_decay : 0,
                  .gradient_scale = scale,
                  .step = step});
  }
}

void Optimizer::publish() {
  for (Slot& slot : slots_)
    if (!slot.master.empty())
      run(model_.stream(), op::Convert{.to = slot.parameter->value, .from = slot.master});
}

}  // namespace samba
