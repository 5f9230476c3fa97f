#pragma once

#include "model/config.h"
#include "model/model.h"

namespace samba {

/// Compares what a GPU's kernels compute with what the processor's do, op by op (run_compared), in
/// small passes through one layer of each kind that the model has, of its own sizes: prompts with
/// state, single tokens, with `training` also losses, gradients and an optimizer's step. Throws the
/// Error that names the first op that differs. Takes seconds, and nothing where this build has
/// passed it on this card for such layers: a file in $XDG_CACHE_HOME/sambalm (~/.cache/sambalm)
/// tells. Does nothing on the processor.
void self_test(const ModelConfig&, Stream&, DType, bool training);

}  // namespace samba
