#pragma once

#include <memory>
#include <string>
#include <vector>

#include "model/model.h"
#include "support/compare.h"
#include "support/target.h"

namespace samba::test {

/// A Samba with every kind of step, small enough for finite differences: no size is a multiple of a
/// tile. `window` 0: full attention.
ModelConfig small_samba(bool tied = true, Index window = 5);

/// A model with weights that are the same in every dtype (values_of).
class SmallModel {
 public:
  SmallModel(const ModelConfig&, const Target&, bool training = true, int threads = 2);

  /// The logits of every token. Spans with slots read and leave `states`.
  Host logits(const std::vector<int>& ids, const std::vector<Span>& spans,
              States* states = nullptr);
  /// Clears the gradients, then Model::loss_and_gradient with scale 1 / number of ids; the sum of
  /// losses.
  double loss_and_gradient(const std::vector<int>& ids, const std::vector<int>& targets,
                           const std::vector<Span>& spans);
  /// Model::loss; with `each` every row's own.
  double loss(const std::vector<int>& ids, const std::vector<int>& targets,
              const std::vector<Span>& spans, Host* each = nullptr);
  std::vector<Host> gradients() const;

  Model& model() { return *model_; }
  Stream& stream() { return stream_; }

 private:
  Stream stream_;
  std::unique_ptr<Model> model_;
};

/// `count` ids below `vocab`, the same for the same seed.
std::vector<int> random_ids(Index count, Index vocab, int seed);

}  // namespace samba::test
