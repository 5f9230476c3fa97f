#pragma once

#include <memory>
#include <vector>

#include "layers/layer.h"

namespace samba {

/// Layers that read the same normed input and whose outputs are added, as attention and MLP in
/// Wang & Komatsuzaki 2021, "GPT-J-6B":
///
///   out = layer_0(x) + layer_1(x) + ...     [N, D]
///
/// Each layer's state is its own.
class Parallel final : public Layer {
 public:
  /// At least one layer.
  explicit Parallel(std::vector<std::unique_ptr<Layer>> layers) : layers_(std::move(layers)) {}
  void forward(Pass&, const Input& in, const Output& y) override;
  void backward(Pass&, ConstView x, ConstView dy, View dx) override;
  void drop() override;
  double flops(Index position, Index length) const override;
  bool repeats() const override;
  bool mixes() const override;

 private:
  std::vector<std::unique_ptr<Layer>> layers_;
};

}  // namespace samba
