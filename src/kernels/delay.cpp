#include "kernels/delay.h"

#include "core/error.h"

namespace samba::op {

void Delay::check() const {
  if (y.rows != batch.tokens)
    fail("delay: y: expected ", batch.tokens, " rows, found ", shape_of(y));
  if (by < 1) fail("delay: by: expected at least 1, found ", by);
  expect_same_shape("delay: x", x, y);
  if (state.empty()) return;
  expect_shape("delay: state", state, state.rows, by * y.cols, y.dtype);
  for (Index i = 0; i < batch.count; ++i)
    if (batch.spans[i].slot >= state.rows)
      fail("delay: state: expected slots below ", state.rows, ", found ", batch.spans[i].slot,
           " in span ", i);
}

}  // namespace samba::op
