#pragma once

#include <functional>
#include <vector>

#include "model/model.h"
#include "train/data.h"
#include "train/log.h"

namespace samba {

/// The mean next-token loss by context length (paper, J3): for each length L the mean over the
/// first L predictions of each window, every window with equal weight. One pass over a window gives
/// all lengths. A window of the longest length and one more id is read in chunks that carry state,
/// so memory does not grow with the length (full attention's own state does).
///
/// windows: of ids [longest + 1]; at most `most` of them, from the first on, are read.
/// lengths: rising. progress, where given, is called after each window with the number done.
std::vector<LengthLoss> validate(Model&, const TokenWindows& windows,
                                 const std::vector<Index>& lengths, Index most,
                                 const std::function<void(Index)>& progress = {});

/// What a model that ignores its context reaches at best on the same predictions: for each length
/// the entropy of the ids by how often each stands among them, in nats.
std::vector<LengthLoss> unigram_entropy(const TokenWindows& windows,
                                        const std::vector<Index>& lengths, Index most);

}  // namespace samba
