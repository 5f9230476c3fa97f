#pragma once

#include <string>
#include <vector>

#include "model/model.h"

namespace samba {

struct SpeedOptions {
  Index prompt = 512;   ///< tokens of the prompt, or of a training sequence
  Index decode = 32;    ///< tokens to generate after it; 0: none
  Index sequences = 1;  ///< at once
  Index rounds = 3;     ///< the best counts
};

/// How fast one job ran, as a share of what the machine did in the same minute.
struct Speed {
  std::string job;  ///< "prompt of 512"
  double tokens, seconds;
  double share;
  std::string of;  ///< "peak 230B FLOP/s"
};

/// Reads a prompt (share of the peak in registers, by counted operations) and generates after it
/// (share of reading weights and state from memory). The model should be packed.
std::vector<Speed> inference_speed(Model&, const SpeedOptions&);

/// Forward, backward, clipping and AdamW over one sequence or several; share of the rate of matrix
/// products. The model must have been made for training.
Speed training_speed(Model&, const SpeedOptions&);

}  // namespace samba
