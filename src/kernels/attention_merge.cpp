#include "kernels/attention_merge.h"

#include "core/error.h"

namespace samba::op {

void AttentionMerge::check() const {
  expect_same_shape("attention_merge: other", other, y);
  expect_shape("attention_merge: lse", lse, y.rows, lse.cols, exact_of(y.dtype));
  expect_same_shape("attention_merge: other_lse", other_lse, lse);
  if (lse.cols < 1 || y.cols % lse.cols != 0)
    fail("attention_merge: lse: expected a divisor of ", y.cols, " columns, found ", lse.cols);
}

}  // namespace samba::op
