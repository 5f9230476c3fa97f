#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/json.h"
#include "text/tokenizer.h"
#include "train/trainer.h"

namespace samba {

/// The folder of a training run: checkpoints `step-00000100/`, `last.json` that names the newest
/// and the best of them, and the logs.
///
/// A checkpoint is a model folder: config.json (the model and under "train" the whole resolved
/// configuration of its run), model.safetensors (masters, f32), the files of the tokenizer, and for
/// going on optimizer.safetensors and trainer.json. It appears under its name complete or not at
/// all.
class RunFolder {
 public:
  /// keep: how many of the newest checkpoints stay beside the best one.
  RunFolder(std::string path, Index keep);

  /// Whether a run has left a checkpoint here.
  bool has_checkpoint() const;
  /// The path of the newest checkpoint.
  std::string last() const;
  /// Removes what a killed run left half written.
  void clean() const;

  /// Writes a checkpoint, with a tokenizer unless it is null, and makes it the newest;
  /// `validation_loss`, where there is one, decides whether it is also the best. Older ones are
  /// then removed, but for `keep` and the best.
  void save(const Trainer&, const Json& run, const Tokenizer* tokenizer,
            std::optional<double> validation_loss);

  const std::string& path() const { return path_; }

 private:
  std::string path_;
  Index keep_;
};

/// Reads weights, moments and the step of a checkpoint into the trainer. Throws an Error that names
/// the file when it is damaged or belongs to another model.
void load_checkpoint(const std::string& checkpoint, Trainer&);

}  // namespace samba
