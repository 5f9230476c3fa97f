#include "kernels/linear.h"

#include <algorithm>

#include "core/error.h"

namespace samba::op {
namespace {

/// Sums that may be left unrounded: of the inputs' dtype, or f32 (f64 stays f64).
void expect_sums(const char* what, View v, Index rows, Index cols, DType inputs) {
  expect_shape(what, v, rows, cols, v.dtype == exact_of(inputs) ? v.dtype : inputs);
}

void expect_first_columns(const char* what, ConstView v, View y) {
  expect_shape(what, v, y.rows, std::min(v.cols, y.cols), y.dtype);
  if (v.data != y.data || v.stride != y.stride)
    fail(what, ": expected the first columns of y, found others");
}

}  // namespace

void PackLinear::check() const {
  expect_float("pack_linear: w", w);
  expect_shape("pack_linear: panels", panels, panel_rows(w.rows), panel_cols(w.cols), w.dtype);
  if (panels.stride != panels.cols)
    fail("pack_linear: panels: expected rows without gaps, found stride ", panels.stride, " of ",
         shape_of(panels));
}

void Linear::check() const {
  const DType type = w.dtype, exact = exact_of(type);
  expect_float("linear: w", w);
  expect_shape("linear: x", x, x.rows, x.cols, norm.empty() ? type : exact);
  if (!norm.empty()) expect_shape("linear: norm", norm, 1, x.cols, exact);
  if (gated)
    expect_shape("linear: y", y, x.rows, y.cols, type);
  else
    expect_sums("linear: y", y, x.rows, y.cols, type);
  if (!product.empty()) {
    if (!gated) fail("linear: product: expected `gated` beside it");
    expect_shape("linear: product", product, x.rows, outputs(), type);
  }
  if (!rope.x.empty()) {
    rope.check();
    expect_first_columns("linear: rope", rope.x, y);
  }
  if (!conv.x.empty()) {
    conv.check();
    expect_first_columns("linear: conv", conv.x, y);
  }
  if (gated + add + !rope.x.empty() + !conv.x.empty() > 1)
    fail("linear: expected one of a gate, something to add to, a rope and a convolution");
  if (!bias.empty()) {
    expect_shape("linear: bias", bias, 1, outputs(), exact);
    if (add) fail("linear: expected either a bias or something to add to, found both");
  }
  if (!packed) return expect_shape("linear: w", w, outputs(), x.cols, type);
  expect_shape("linear: w", w, PackLinear::panel_rows(outputs()), PackLinear::panel_cols(x.cols),
               type);
  if (w.stride != w.cols)
    fail("linear: w: expected panels without gaps, found stride ", w.stride, " of ", shape_of(w));
}

void LinearBackward::check() const {
  expect_float("linear_backward: dy", dy);
  if (!dx.empty()) {
    expect_sums("linear_backward: dx", dx, dy.rows, dx.cols, dy.dtype);
    expect_shape("linear_backward: w", w, dy.cols, dx.cols, dy.dtype);
  }
  if (!product.empty()) {
    if (!dx.empty()) fail("linear_backward: expected either dx or product, found both");
    expect_shape("linear_backward: again", again, dy.rows, again.cols, dy.dtype);
    expect_shape("linear_backward: product", product, dy.rows, 2 * again.cols, dy.dtype);
    expect_shape("linear_backward: w", w, dy.cols, again.cols, dy.dtype);
  }
  if (!dw.empty()) {
    expect_shape("linear_backward: dw", dw, dy.cols, dw.cols, exact_of(dy.dtype));
    expect_shape("linear_backward: x", x, dy.rows, dw.cols, dy.dtype);
  }
  if (!dbias.empty()) expect_shape("linear_backward: dbias", dbias, 1, dy.cols, exact_of(dy.dtype));
}

}  // namespace samba::op
