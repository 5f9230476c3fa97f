#include "kernels/cross_entropy.h"

#include "core/error.h"

namespace samba::op {

void CrossEntropy::check() const {
  expect_shape("cross_entropy: logits", logits, logits.rows, logits.cols, exact_of(logits.dtype));
  expect_shape("cross_entropy: loss", loss, logits.rows, 1, logits.dtype);
  if (!dlogits.empty()) {
    expect_float("cross_entropy: dlogits", dlogits);
    if (exact_of(dlogits.dtype) != logits.dtype)
      fail("cross_entropy: dlogits: expected ", logits.dtype == DType::f64 ? "f64" : "f32 or bf16",
           " beside ", shape_of(logits), ", found ", shape_of(dlogits));
    expect_shape("cross_entropy: dlogits", dlogits, logits.rows, logits.cols, dlogits.dtype);
  }
  expect_shape("cross_entropy: targets", targets, logits.rows, 1, DType::i32);
}

void CrossEntropy::check_targets() const {
  for (Index n = 0; n < logits.rows; ++n)
    if (const Index target = *targets.row<std::int32_t>(n); target < -1 || target >= logits.cols)
      fail("cross_entropy: targets: expected -1 or an id from 0 to ", logits.cols - 1, ", found ",
           target, " in row ", n);
}

}  // namespace samba::op
