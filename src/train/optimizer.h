#pragma once

#include <functional>
#include <vector>

#include "model/model.h"

namespace samba {

/// AdamW over a model's parameters. Master weights are f32 (f64 in f64): the model's own matrices
/// where those are exact, copies beside a bf16 model.
class Optimizer {
 public:
  struct Config {
    double beta1 = 0.9;
    double beta2 = 0.95;
    double eps = 1e-8;
    double weight_decay = 0.1;
    std::string decay = "matrices";

    void fields(auto& f) {
      f("beta1", beta1, "AdamW: decay of the mean of gradients");
      f("beta2", beta2, "AdamW: decay of the mean of their squares");
      f("eps", eps, "AdamW: added to the root of the mean square");
      f("weight_decay", weight_decay, "AdamW: share of a weight that a step at rate 1 takes away");
      f("decay", decay,
        "what decays: matrices (of projections and embedding), or all (norms, biases, "
        "convolutions, A_log and D too, as in the paper)");
    }
  };

  /// What AdamW keeps of a parameter, in the order of the model's. The matrices lie in blocks.
  struct Slot {
    Parameter* parameter;
    Matrix master;  ///< empty where the parameter's value is its own master
    Matrix m;
    Matrix v;

    View weights() const { return master.empty() ? parameter->value.view() : master.view(); }
  };

  /// The model is allocated for training; masters start from its values, where it has some.
  Optimizer(Model&, const Config&);

  /// Starts from the weights that `read` writes to a destination: to the masters, from which a bf16
  /// model's values are rounded. Where masters begin as numbers of bf16, steps below half the
  /// distance to the next one are not seen by the model until they have added up to it.
  void start(const std::function<void(const Destination&)>& read);

  /// Adds the squares of all gradients, their norm's, to `sum`: [1, 1] f64.
  void add_squares(View sum) const;
  /// Updates every weight from its gradient, the gradients scaled to a norm of at most `clip` (0:
  /// as they are). sums: [1, G] f64, first what add_squares gave; where one of them is no finite
  /// number nothing changes. step counts from 1.
  void step(double lr, double clip, ConstView sums, Index step);
  /// After the masters were written from outside: rounds them into a bf16 model's values.
  void publish();

  std::vector<Slot>& slots() { return slots_; }
  const std::vector<Slot>& slots() const { return slots_; }

 private:
  /// What it keeps of a block of the model's: [1, ...] each.
  struct Block {
    Model::Block of;
    Matrix master;  ///< empty where the values are their own
    Matrix m, v;
    bool decays;
  };

  Model& model_;
  Config config_;
  std::vector<Block> blocks_;
  std::vector<Slot> slots_;
};

}  // namespace samba
