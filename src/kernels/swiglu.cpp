#include "kernels/swiglu.h"

namespace samba::op {

void SwiGlu::check() const {
  expect_same_shape("swiglu: gate", gate, y);
  expect_same_shape("swiglu: up", up, y);
}

void SwiGluBackward::check() const {
  expect_same_shape("swiglu_backward: dgate", dgate, dy);
  expect_same_shape("swiglu_backward: dup", dup, dy);
  if (!y.empty()) expect_same_shape("swiglu_backward: y", y, dy);
  expect_same_shape("swiglu_backward: gate", gate, dy);
  expect_same_shape("swiglu_backward: up", up, dy);
}

}  // namespace samba::op
