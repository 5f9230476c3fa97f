#include "kernels/linear_attention.h"

#include "core/error.h"

namespace samba::op {

void LinearAttention::check() const {
  if (y.rows != batch.tokens)
    fail("linear_attention: y: expected ", batch.tokens, " rows, found ", shape_of(y));
  if (heads < 1 || q.cols % heads != 0 || y.cols % heads != 0)
    fail("linear_attention: heads: expected a divisor of ", q.cols, " and of ", y.cols, ", found ",
         heads);
  expect_shape("linear_attention: q", q, y.rows, q.cols, y.dtype);
  expect_same_shape("linear_attention: k", k, q);
  expect_same_shape("linear_attention: v", v, y);
  if (!gate.empty()) expect_same_shape("linear_attention: gate", gate, q);
  if (state.empty()) return;
  expect_shape("linear_attention: state", state, state.rows, q.cols * (y.cols / heads),
               exact_of(y.dtype));
  for (Index i = 0; i < batch.count; ++i)
    if (batch.spans[i].slot >= state.rows)
      fail("linear_attention: state: expected slots below ", state.rows, ", found ",
           batch.spans[i].slot, " in span ", i);
}

void LinearAttentionBackward::check() const {
  if (dy.rows != batch.tokens)
    fail("linear_attention_backward: dy: expected ", batch.tokens, " rows, found ", shape_of(dy));
  if (heads < 1 || q.cols % heads != 0 || dy.cols % heads != 0)
    fail("linear_attention_backward: heads: expected a divisor of ", q.cols, " and of ", dy.cols,
         ", found ", heads);
  for (Index i = 0; i < batch.count; ++i)
    if (batch.spans[i].slot >= 0)
      fail("linear_attention_backward: expected spans without a slot, found slot ",
           batch.spans[i].slot, " in span ", i);
  expect_shape("linear_attention_backward: q", q, dy.rows, q.cols, dy.dtype);
  expect_same_shape("linear_attention_backward: k", k, q);
  expect_same_shape("linear_attention_backward: v", v, dy);
  expect_same_shape("linear_attention_backward: dq", dq, q);
  expect_same_shape("linear_attention_backward: dk", dk, q);
  expect_same_shape("linear_attention_backward: dv", dv, dy);
  if (gate.empty() != dgate.empty())
    fail("linear_attention_backward: expected gate and dgate or neither, found only ",
         gate.empty() ? "dgate" : "gate");
  if (gate.empty()) return;
  expect_same_shape("linear_attention_backward: gate", gate, q);
  expect_same_shape("linear_attention_backward: dgate", dgate, q);
}

}  // namespace samba::op
