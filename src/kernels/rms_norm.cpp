#include "kernels/rms_norm.h"

#include "core/error.h"

namespace samba::op {

void RmsNorm::check() const {
  expect_float("rms_norm: y", y);
  const DType exact = exact_of(y.dtype);
  expect_shape("rms_norm: x", x, y.rows, y.cols, exact);
  expect_shape("rms_norm: w", w, 1, y.cols, exact);
  if (!add.empty()) {
    expect_same_shape("rms_norm: add", add, y);
    if (sum.empty()) fail("rms_norm: sum: expected ", shape_of(x), " beside add, found nothing");
  }
  if (!sum.empty()) expect_same_shape("rms_norm: sum", sum, x);
  if (!normal.empty()) expect_same_shape("rms_norm: normal", normal, y);
  if (!scale.empty()) expect_shape("rms_norm: scale", scale, y.rows, 1, exact);
}

void ScaleColumns::check() const {
  expect_float("scale_columns: y", y);
  expect_same_shape("scale_columns: x", x, y);
  expect_shape("scale_columns: w", w, 1, y.cols, exact_of(y.dtype));
}

void RmsNormBackward::check() const {
  expect_float("rms_norm_backward: dy", dy);
  const DType exact = exact_of(dy.dtype);
  expect_shape("rms_norm_backward: dx", dx, dy.rows, dy.cols, exact);
  expect_shape("rms_norm_backward: dw", dw, 1, dy.cols, exact);
  if (!rounded.empty()) expect_same_shape("rms_norm_backward: rounded", rounded, dy);
  expect_same_shape("rms_norm_backward: normal", normal, dy);
  expect_shape("rms_norm_backward: w", w, 1, dy.cols, exact);
  expect_shape("rms_norm_backward: scale", scale, dy.rows, 1, exact);
}

}  // namespace samba::op
