#include "kernels/mega.h"

#include "core/error.h"

namespace samba::op {

void MegaQueryKey::check() const {
  const Index width = z.cols;
  expect_float("mega_query_key: z", z);
  expect_shape("mega_query_key: q", q, z.rows, 2 * width, z.dtype);
  expect_same_shape("mega_query_key: k", k, q);
  expect_shape("mega_query_key: gamma", gamma, 2, width, exact_of(z.dtype));
  expect_shape("mega_query_key: beta", beta, 1, width, exact_of(z.dtype));
  expect_same_shape("mega_query_key: bias", bias, gamma);
  if (!(scale > 0)) fail("mega_query_key: expected a scale of more than 0, found ", scale);
}

void MegaQueryKeyBackward::check() const {
  const Index width = z.cols;
  expect_float("mega_query_key_backward: z", z);
  expect_same_shape("mega_query_key_backward: dz", dz, z);
  expect_shape("mega_query_key_backward: dq", dq, z.rows, 2 * width, z.dtype);
  expect_same_shape("mega_query_key_backward: dk", dk, dq);
  expect_shape("mega_query_key_backward: gamma", gamma, 2, width, exact_of(z.dtype));
  expect_same_shape("mega_query_key_backward: dgamma", dgamma, gamma);
  expect_shape("mega_query_key_backward: dbeta", dbeta, 1, width, exact_of(z.dtype));
  expect_same_shape("mega_query_key_backward: dbias", dbias, gamma);
  if (!(scale > 0)) fail("mega_query_key_backward: expected a scale of more than 0, found ", scale);
}

void MegaGate::check() const {
  expect_float("mega_gate: x", x);
  expect_same_shape("mega_gate: y", y, x);
  expect_same_shape("mega_gate: u", u, x);
  expect_same_shape("mega_gate: h", h, x);
  expect_same_shape("mega_gate: hx", hx, x);
}

void MegaGateBackward::check() const {
  expect_float("mega_gate_backward: x", x);
  expect_same_shape("mega_gate_backward: du", du, x);
  expect_same_shape("mega_gate_backward: dh", dh, x);
  expect_shape("mega_gate_backward: dx", dx, x.rows, x.cols, exact_of(x.dtype));
  expect_same_shape("mega_gate_backward: dy", dy, x);
  expect_same_shape("mega_gate_backward: u", u, x);
  expect_same_shape("mega_gate_backward: h", h, x);
  expect_same_shape("mega_gate_backward: hx", hx, x);
}

}  // namespace samba::op
