#include "kernels/selective_scan.h"

#include "core/error.h"

namespace samba::op {
namespace {

void expect_no_slots(const char* name, const Batch& batch) {
  for (Index i = 0; i < batch.count; ++i)
    if (batch.spans[i].slot >= 0)
      fail(name, ": expected spans without a slot, found slot ", batch.spans[i].slot, " in span ",
           i);
}

void expect_slots_within(const char* name, const Batch& batch, Index slots) {
  for (Index i = 0; i < batch.count; ++i)
    if (batch.spans[i].slot >= slots)
      fail(name, ": expected slots below ", slots, ", found ", batch.spans[i].slot, " in span ", i);
}

void expect_chunk(const char* name, Index chunk) {
  using Scan = SelectiveScan;
  if (chunk < 1 || chunk > Scan::kChunk || chunk % Scan::kShortest != 0)
    fail(name, ": chunk: expected a multiple of ", Scan::kShortest, " up to ", Scan::kChunk,
         ", found ", chunk);
}

}  // namespace

void PackDecay::check() const {
  if (a_log.dtype != DType::f64)
    expect_shape("pack_decay: a_log", a_log, a_log.rows, a_log.cols, DType::f32);
  expect_shape("pack_decay: decay", decay, a_log.cols, a_log.rows, a_log.dtype);
}

Index SelectiveScan::chunk_on(const Stream& stream) {
  return stream.cuda() == nullptr ? kChunk : kShortest;
}

void SelectiveScan::check() const {
  const Index channels = y.cols, states = b.cols;
  const DType exact = exact_of(y.dtype);
  if (y.rows != batch.tokens)
    fail("selective_scan: y: expected ", batch.tokens, " rows, found ", shape_of(y));
  if (states < 1) fail("selective_scan: b: expected 1 state or more, found ", shape_of(b));
  expect_same_shape("selective_scan: u", u, y);
  expect_same_shape("selective_scan: dt", dt, y);
  expect_shape("selective_scan: b", b, y.rows, states, y.dtype);
  expect_shape("selective_scan: c", c, y.rows, states, y.dtype);
  if (!z.empty()) expect_same_shape("selective_scan: z", z, y);
  expect_shape("selective_scan: dt_bias", dt_bias, 1, channels, exact);
  if (decay.empty())
    expect_shape("selective_scan: a_log", a_log, channels, states, exact);
  else
    expect_shape("selective_scan: decay", decay, states, channels, exact);
  expect_shape("selective_scan: d", d, 1, channels, exact);
  if (!state.empty()) {
    expect_shape("selective_scan: state", state, state.rows, channels * states, exact);
    expect_slots_within("selective_scan: state", batch, state.rows);
  }
  expect_chunk("selective_scan", chunk);
  if (!h.empty())
    expect_shape("selective_scan: h", h, chunks(batch, chunk), channels * states, exact);
  if (dt_from.w.empty()) return;
  dt_from.check();
  if (dt_from.y.data != dt.data || dt_from.y.stride != dt.stride || dt_from.y.cols != dt.cols)
    fail("selective_scan: dt_from: expected dt as its y, found ", shape_of(dt_from.y));
}

void SelectiveScanBackward::check() const {
  const Index channels = dy.cols, states = a_log.cols;
  const DType exact = exact_of(dy.dtype);
  if (dy.rows != batch.tokens)
    fail("selective_scan_backward: dy: expected ", batch.tokens, " rows, found ", shape_of(dy));
  expect_no_slots("selective_scan_backward", batch);
  expect_same_shape("selective_scan_backward: u", u, dy);
  expect_same_shape("selective_scan_backward: dt", dt, dy);
  expect_shape("selective_scan_backward: b", b, dy.rows, states, dy.dtype);
  expect_shape("selective_scan_backward: c", c, dy.rows, states, dy.dtype);
  expect_shape("selective_scan_backward: dt_bias", dt_bias, 1, channels, exact);
  expect_shape("selective_scan_backward: a_log", a_log, channels, states, exact);
  expect_shape("selective_scan_backward: d", d, 1, channels, exact);
  expect_chunk("selective_scan_backward", chunk);
  expect_shape("selective_scan_backward: h", h, SelectiveScan::chunks(batch, chunk),
               channels * states, exact);
  expect_same_shape("selective_scan_backward: du", du, dy);
  expect_same_shape("selective_scan_backward: ddt", ddt, dy);
  expect_same_shape("selective_scan_backward: db", db, b);
  expect_same_shape("selective_scan_backward: dc", dc, c);
  expect_same_shape("selective_scan_backward: ddt_bias", ddt_bias, dt_bias);
  expect_same_shape("selective_scan_backward: da_log", da_log, a_log);
  expect_same_shape("selective_scan_backward: dd", dd, d);
  if (z.empty() != dz.empty())
    fail("selective_scan_backward: expected z and dz or neither, found only ",
         z.empty() ? "dz" : "z");
  if (!z.empty()) {
    expect_same_shape("selective_scan_backward: z", z, dy);
    expect_same_shape("selective_scan_backward: dz", dz, dy);
  }
}

}  // namespace samba::op
