#include "layers/parallel.h"

#include <algorithm>

#include "kernels/elementwise.h"
#include "kernels/run.h"
#include "layers/linear.h"

namespace samba {

void Parallel::forward(Pass& pass, const Input& in, const Output& y) {
  const NormedRows rows(pass, in);
  const ConstView x = rows;
  layers_.front()->forward(pass, x, y);
  for (std::size_t i = 1; i < layers_.size(); ++i) {
    if (y.add) {
      layers_[i]->forward(pass, x, y);
      continue;
    }
    const Matrix more(pass.stream, x.dtype, x.rows, x.cols);
    layers_[i]->forward(pass, x, more);
    run(pass.stream, op::Convert{.to = y.y, .from = more, .add = true});
  }
}

void Parallel::backward(Pass& pass, ConstView x, ConstView dy, View dx) {
  layers_.front()->backward(pass, x, dy, dx);
  for (std::size_t i = 1; i < layers_.size(); ++i) {
    const Matrix more(pass.stream, x.dtype, x.rows, x.cols);
    layers_[i]->backward(pass, x, dy, more);
    run(pass.stream, op::Convert{.to = dx, .from = more, .add = true});
  }
}

void Parallel::drop() {
  for (const std::unique_ptr<Layer>& layer : layers_) layer->drop();
}

double Parallel::flops(Index position, Index length) const {
  double sum = 0;
  for (const std::unique_ptr<Layer>& layer : layers_) sum += layer->flops(position, length);
  return sum;
}

bool Parallel::repeats() const {
  return std::all_of(layers_.begin(), layers_.end(),
                     [](const std::unique_ptr<Layer>& layer) { return layer->repeats(); });
}

bool Parallel::mixes() const {
  return std::any_of(layers_.begin(), layers_.end(),
                     [](const std::unique_ptr<Layer>& layer) { return layer->mixes(); });
}

}  // namespace samba
