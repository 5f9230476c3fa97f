#pragma once

#include <string>
#include <vector>

#include "eval/report.h"
#include "model/folder.h"
#include "text/tokenizer.h"
#include "train/log.h"

namespace samba {

/// What a measured model has to tell: its own facts, the log of its training run where that lies in
/// its folder or the one above, and the measured lengths.
Report run_report(const ModelSource&, const Model&, const std::vector<LengthLoss>& lengths,
                  Index sequences);

/// Text that the model writes behind `prompt`: `tokens` ids at temperature 0.8. The model is
/// packed.
Sample write_sample(Model&, const Tokenizer&, const std::string& prompt, Index tokens,
                    std::uint64_t seed);

}  // namespace samba
