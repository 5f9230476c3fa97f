#include "kernels/causal_conv1d.h"

#include "core/error.h"

namespace samba::op {

void CausalConv1d::check() const {
  const DType exact = exact_of(y.dtype);
  if (y.rows != batch.tokens)
    fail("causal_conv1d: y: expected ", batch.tokens, " rows, found ", shape_of(y));
  if (w.cols < 1) fail("causal_conv1d: w: expected 1 tap or more, found ", shape_of(w));
  expect_same_shape("causal_conv1d: x", x, y);
  expect_shape("causal_conv1d: w", w, y.cols, w.cols, exact);
  if (!bias.empty()) expect_shape("causal_conv1d: bias", bias, 1, y.cols, exact);
  if (state.empty()) return;
  expect_shape("causal_conv1d: state", state, state.rows, (w.cols - 1) * y.cols, exact);
  for (Index i = 0; i < batch.count; ++i)
    if (batch.spans[i].slot >= state.rows)
      fail("causal_conv1d: state: expected slots below ", state.rows, ", found ",
           batch.spans[i].slot, " in span ", i);
}

void CausalConv1dBackward::check() const {
  const DType exact = exact_of(dy.dtype);
  if (dy.rows != batch.tokens)
    fail("causal_conv1d_backward: dy: expected ", batch.tokens, " rows, found ", shape_of(dy));
  for (Index i = 0; i < batch.count; ++i)
    if (batch.spans[i].slot >= 0)
      fail("causal_conv1d_backward: expected spans without a slot, found slot ",
           batch.spans[i].slot, " in span ", i);
  if (w.cols < 1) fail("causal_conv1d_backward: w: expected 1 tap or more, found ", shape_of(w));
  expect_same_shape("causal_conv1d_backward: x", x, dy);
  expect_same_shape("causal_conv1d_backward: dx", dx, dy);
  expect_shape("causal_conv1d_backward: w", w, dy.cols, w.cols, exact);
  expect_same_shape("causal_conv1d_backward: dw", dw, w);
  if (bias.empty() != dbias.empty())
    fail("causal_conv1d_backward: expected bias and dbias or neither, found only ",
         bias.empty() ? "dbias" : "bias");
  if (bias.empty()) return;
  expect_shape("causal_conv1d_backward: bias", bias, 1, dy.cols, exact);
  expect_same_shape("causal_conv1d_backward: dbias", dbias, bias);
}

}  // namespace samba::op
