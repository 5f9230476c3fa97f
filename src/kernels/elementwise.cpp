#include "kernels/elementwise.h"

namespace samba::op {

void Convert::check() const {
  expect_float("convert: from", from);
  expect_float("convert: to", to);
  expect_shape("convert: from", from, to.rows, to.cols, from.dtype);
}

}  // namespace samba::op
