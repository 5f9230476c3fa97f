#include "kernels/argmax.h"

#include "core/error.h"

namespace samba::op {

void Argmax::check() const {
  if (x.empty() || x.dtype != exact_of(x.dtype) || x.dtype == DType::i32 || x.cols < 1)
    fail("argmax: x: expected f32 or f64 with at least one column, found ",
         x.empty() ? "nothing" : shape_of(x));
  expect_shape("argmax: y", y, x.rows, 1, DType::i32);
}

}  // namespace samba::op
