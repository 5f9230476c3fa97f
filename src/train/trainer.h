#pragma once

#include <optional>
#include <string>
#include <vector>

#include "model/model.h"
#include "train/data.h"
#include "train/optimizer.h"
#include "train/schedule.h"

namespace samba {

/// Everything that decides what a run computes, beside the model, the data and the seed.
struct TrainConfig {
  Index steps = 0;
  Index batch = 8;
  Index micro_batch = 0;
  Index length = 0;
  double lr = 4e-4;
  double min_lr = -1;
  double warmup = 0.01;
  std::string schedule = "tokens";
  double clip = 1;
  bool reset_documents = false;
  bool recompute = false;
  std::string order = "shuffled";
  Optimizer::Config optimizer;

  void fields(auto& f) {
    f("steps", steps, "optimizer steps");
    f("batch", batch, "sequences of a step");
    f("micro_batch", micro_batch, "sequences of a pass; 0: all of a step's");
    f("length", length, "tokens of a sequence; 0: the model's context");
    f("lr", lr, "highest learning rate");
    f("min_lr", min_lr, "learning rate at the end; -1: a tenth of lr");
    f("warmup", warmup, "share of the run in which the rate rises");
    f("schedule", schedule,
      "tokens: warm-up and cosine over the tokens trained on; paper: over passes, as the authors'");
    f("clip", clip, "norm that gradients are scaled down to; 0: never");
    f("reset_documents", reset_documents, "states start anew at each document");
    f("recompute", recompute, "compute activations twice instead of keeping them");
    f("order", order, "order of the data: shuffled, or paper (the authors' reader)");
    optimizer.fields(f);
  }
};

/// Throws an Error for a value that no run can have. Fills in `length`, `micro_batch` and `min_lr`
/// where they stand for a default.
void complete(TrainConfig&, const ModelConfig&);

/// Bytes of the stream's device that a run holds in its memory of ops: weights, gradients, the
/// optimizer's, and what a pass of micro_batch sequences makes, found by a rehearsal. config must
/// be complete.
struct TrainingMemory {
  std::size_t model;  ///< weights and gradients
  std::size_t optimizer;
  std::size_t passes;

  std::size_t all() const { return model + optimizer + passes; }
};
TrainingMemory training_memory(const ModelConfig&, const Stream&, DType, const TrainConfig&);

/// AdamW on the mean next-token loss. A step is a pure function of the checkpoint before it and the
/// data, so a resumed run repeats an unbroken one bit for bit.
class Trainer {
 public:
  struct Report {
    double loss;           ///< mean over the step's tokens, nats
    double gradient_norm;  ///< before clipping
    double lr;
    Index tokens;  ///< of this step
    double flops;  ///< of this step, forward and backward
  };

  /// The model is allocated for training and holds the weights to start from. eos marks documents'
  /// ends in the data. config must be complete.
  Trainer(Model&, const TokenStream&, const TrainConfig&, std::int32_t eos);

  /// One optimizer step. Throws an Error that names the step and the tensor when the loss or a
  /// gradient is not finite; the weights are then those before the step.
  Report step();

  Index steps_done() const { return steps_; }
  Index tokens_done() const { return steps_ * config_.batch * config_.length; }
  const TrainConfig& config() const { return config_; }
  Optimizer& optimizer() { return optimizer_; }
  const Optimizer& optimizer() const { return optimizer_; }
  Model& model() { return model_; }
  const Model& model() const { return model_; }
  /// The learning rate of the step after `steps` steps.
  double lr_after(Index steps) const;
  /// After weights and moments were written from outside.
  void restore(Index steps);

 private:
  /// Reads sequences [first, first + count) of the current step; their loss is added to `sum`.
  void accumulate(Index first, Index count, View sum);
  /// "layers.3.norm.weight (weight)": the first tensor with a value that is not finite.
  std::string first_bad_tensor() const;

  Model& model_;
  const TokenStream& data_;
  TrainConfig config_;
  std::int32_t eos_;
  Optimizer optimizer_;
  Index steps_ = 0;
  double flops_ = 0;
};

}  // namespace samba
