#include "kernels/gated_norm.h"

#include "core/error.h"

namespace samba::op {

void GatedNorm::check() const {
  expect_same_shape("gated_norm: x", x, y);
  expect_same_shape("gated_norm: gate", gate, y);
  expect_shape("gated_norm: w", w, 1, w.cols, exact_of(y.dtype));
  if (w.cols < 1 || y.cols % w.cols != 0)
    fail("gated_norm: w: expected a divisor of ", y.cols, " columns, found ", w.cols);
}

void GatedNormBackward::check() const {
  expect_same_shape("gated_norm_backward: x", x, dy);
  expect_same_shape("gated_norm_backward: gate", gate, dy);
  expect_same_shape("gated_norm_backward: dx", dx, dy);
  expect_same_shape("gated_norm_backward: dgate", dgate, dy);
  expect_shape("gated_norm_backward: w", w, 1, w.cols, exact_of(dy.dtype));
  expect_same_shape("gated_norm_backward: dw", dw, w);
  if (w.cols < 1 || dy.cols % w.cols != 0)
    fail("gated_norm_backward: w: expected a divisor of ", dy.cols, " columns, found ", w.cols);
}

}  // namespace samba::op
