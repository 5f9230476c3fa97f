#include "kernels/attention.h"

#include <algorithm>

#include "core/error.h"

namespace samba::op {
namespace {

void check_heads(const char* place, const Heads& heads, Index window, double scale) {
  if (heads.width < 1 || heads.value_width < 1 || heads.kv_heads < 1 || heads.heads < 1 ||
      heads.heads % heads.kv_heads != 0)
    fail(place, ": expected heads that are a multiple of kv_heads, found ", heads.heads, " and ",
         heads.kv_heads, " of width ", heads.width, " and ", heads.value_width);
  if (window < 1) fail(place, ": expected a window of at least 1 key, found ", window);
  if (!(scale >= 0)) fail(place, ": expected a scale that is not negative, found ", scale);
}

void check_state(const Attention& op) {
  if (op.key_state.empty() && op.value_state.empty()) return;
  const Index width = op.heads.kv_heads * op.heads.width;
  const Index capacity = op.key_state.cols / width;
  expect_shape("attention: key_state", op.key_state, op.key_state.rows, capacity * width,
               op.k.dtype);
  expect_shape("attention: value_state", op.value_state, op.key_state.rows,
               capacity * op.heads.kv_heads * op.heads.value_width, op.k.dtype);
  for (Index i = 0; i < op.batch.count; ++i) {
    const Span& span = op.batch.spans[i];
    if (span.slot < 0) continue;
    if (span.slot >= op.key_state.rows)
      fail("attention: expected a slot below ", op.key_state.rows, ", found ", span.slot);
    const Index needed = std::min(op.window, span.position + span.length);
    if (capacity < needed)
      fail("attention: slot ", span.slot, " needs ", needed, " keys, its ring holds ", capacity);
  }
}

}  // namespace

void Attention::check() const {
  check_heads("attention", heads, window, scale);
  const Index n = batch.tokens;
  expect_shape("attention: q", q, n, heads.heads * heads.width, q.dtype);
  expect_shape("attention: y", y, n, heads.heads * heads.value_width, q.dtype);
  expect_shape("attention: k", k, n, heads.kv_heads * heads.width, q.dtype);
  expect_shape("attention: v", v, n, heads.kv_heads * heads.value_width, q.dtype);
  if (!lse.empty()) expect_shape("attention: lse", lse, n, heads.heads, exact_of(q.dtype));
  check_state(*this);
}

void AttentionBackward::check() const {
  check_heads("attention_backward", heads, window, scale);
  const Index n = batch.tokens;
  expect_shape("attention_backward: q", q, n, heads.heads * heads.width, q.dtype);
  expect_same_shape("attention_backward: dq", dq, q);
  expect_shape("attention_backward: y", y, n, heads.heads * heads.value_width, q.dtype);
  expect_same_shape("attention_backward: dy", dy, y);
  expect_shape("attention_backward: k", k, n, heads.kv_heads * heads.width, q.dtype);
  expect_shape("attention_backward: v", v, n, heads.kv_heads * heads.value_width, q.dtype);
  expect_same_shape("attention_backward: dk", dk, k);
  expect_same_shape("attention_backward: dv", dv, v);
  expect_shape("attention_backward: lse", lse, n, heads.heads, exact_of(q.dtype));
  for (Index i = 0; i < batch.count; ++i)
    if (batch.spans[i].slot >= 0)
      fail("attention_backward: expected spans without a slot, found slot ", batch.spans[i].slot);
}

}  // namespace samba::op
