#include "kernels/adamw.h"

#include "core/error.h"

namespace samba::op {

void AdamW::check() const {
  expect_shape("adamw: w", w, 1, w.cols, exact_of(w.dtype));
  expect_same_shape("adamw: m", m, w);
  expect_same_shape("adamw: v", v, w);
  expect_same_shape("adamw: gradient", gradient, w);
  if (!rounded.empty()) expect_shape("adamw: rounded", rounded, 1, w.cols, DType::bf16);
  if (!sums.empty()) expect_shape("adamw: sums", sums, 1, sums.cols, DType::f64);
  if (clip > 0 && sums.empty()) fail("adamw: expected sums to clip by, found nothing");
  if (step < 1) fail("adamw: step: expected 1 or more, found ", step);
}

void SumOfSquares::check() const {
  expect_shape("sum_of_squares: sum", sum, 1, 1, DType::f64);
  expect_float("sum_of_squares: x", x);
}

}  // namespace samba::op
