#include "kernels/batch.h"

#include <algorithm>
#include <unordered_set>

#include "core/error.h"

namespace samba {

Batch batch_of(const std::vector<Span>& spans) {
  Batch batch{spans.data(), static_cast<Index>(spans.size()), 0, 0};
  std::unordered_set<Index> slots;
  for (const Span& span : spans) {
    if (span.first != batch.tokens || span.length < 1)
      fail("batch: expected a span of at least 1 token from row ", batch.tokens, ", found ",
           span.length, " from row ", span.first);
    if (span.slot >= 0 && !slots.insert(span.slot).second)
      fail("batch: slot ", span.slot, " is named by two spans");
    batch.tokens += span.length;
    batch.longest = std::max(batch.longest, span.length);
  }
  return batch;
}

}  // namespace samba
