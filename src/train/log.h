#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/append_file.h"
#include "core/matrix.h"
#include "train/event_file.h"

namespace samba {

/// What is known after a training step.
struct StepRecord {
  Index step = 0;    ///< steps done, this one included
  Index tokens = 0;  ///< tokens trained on in all, those of earlier runs included
  double loss = 0;   ///< nats per token
  double learning_rate = 0;
  double gradient_norm = 0;  ///< before clipping
  double tokens_per_second = 0;
  std::optional<double> flops_share;  ///< FLOP/s as a share of the machine's measured ceiling
  double time = 0;                    ///< seconds since 1970, set by the log
};

/// The loss on held-out text at one context length.
struct LengthLoss {
  Index length = 0;  ///< tokens
  double loss = 0;   ///< nats per token
};

/// What a validation found.
struct ValidationRecord {
  Index step = 0;
  Index tokens = 0;  ///< as in StepRecord
  std::vector<LengthLoss> losses;
  double time = 0;  ///< seconds since 1970, set by the log
};

/// Writes down a training run twice: `log.jsonl`, one JSON object a line, and a TensorBoard event
/// file beside it. Both are complete to the last record at any time. Numbers that are not finite
/// are null in JSON.
class TrainingLog {
 public:
  struct Options {
    std::string folder;         ///< exists
    Index training_length = 0;  ///< tokens; validation lengths are named as multiples of it
    Index resumed_step = -1;    ///< the checkpoint's step; later lines are removed. -1: a new run
  };
  /// Throws an Error that names file and line when an existing log cannot be read.
  explicit TrainingLog(const Options& options);

  /// {"event": "step", "step", "tokens", "loss", "lr", "grad_norm", "tokens_per_second",
  /// "flops_share", "time"}; TensorBoard tags `train/loss`, `train/lr` and so on.
  void step(StepRecord record);

  /// {"event": "validation", "step", "tokens", "losses": [{"length", "loss"}], "time"}; TensorBoard
  /// tags `validation/loss@1x`, `validation/loss@2x`: the length over the training length.
  void validation(ValidationRecord record);

 private:
  Index training_length_;
  AppendFile lines_;
  EventFile events_;
};

/// What a log holds, in its order.
struct TrainingHistory {
  std::vector<StepRecord> steps;
  std::vector<ValidationRecord> validations;
};

/// Reads a `log.jsonl`; null becomes NaN and a last line without its end is left out. Throws an
/// Error that names file and line.
TrainingHistory read_training_log(const std::string& path);

}  // namespace samba
