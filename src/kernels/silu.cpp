#include "kernels/silu.h"

namespace samba::op {

void Silu::check() const {
  expect_float("silu: x", x);
  expect_same_shape("silu: y", y, x);
}

void SiluBackward::check() const {
  expect_float("silu_backward: x", x);
  expect_same_shape("silu_backward: dy", dy, x);
  expect_same_shape("silu_backward: dx", dx, x);
}

}  // namespace samba::op
