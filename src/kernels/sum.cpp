#include "kernels/sum.h"

namespace samba::op {

void Sum::check() const {
  expect_shape("sum: sum", sum, 1, 1, DType::f64);
  expect_shape("sum: x", x, x.rows, 1, exact_of(x.dtype));
}

}  // namespace samba::op
