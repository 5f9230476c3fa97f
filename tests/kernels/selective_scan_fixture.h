#pragma once

#include <cmath>
#include <vector>

#include "kernels/selective_scan.h"
#include "support/kernel_test.h"
#include "support/reference.h"

// What the tests of the scan and of its gradients share.
namespace samba::test {

inline constexpr Index kChunk = op::SelectiveScan::kChunk;
inline constexpr Index kShortest = op::SelectiveScan::kShortest;

/// A sum along time for each state, then one over the states.
inline Index terms(Index length, Index states) {
  return length + states;
}

/// Columns between rows. A GPU reads a run of channels at once where runs of 8 lie at multiples of
/// their size, which needs this as well as as many channels.
inline Index gap_for(Index channels) {
  return channels % 8 == 0 ? 8 : 2;
}

/// Inputs as a trained layer would meet them: steps of 0.05 to 1.3, decays around 1 .. S.
struct Inputs {
  Host u, dt, b, c, z, dt_bias, a_log, d, dy;

  Inputs(Index tokens, Index channels, Index states, DType dtype) {
    const DType exact = exact_of(dtype);
    u = random(tokens, channels, dtype, 1);
    dt = random(tokens, channels, dtype, 2);
    b = random(tokens, states, dtype, 3);
    c = random(tokens, states, dtype, 4);
    z = random(tokens, channels, dtype, 5, 2);
    dt_bias = random(1, channels, exact, 6);
    for (double& value : dt_bias.values) value -= 1;
    a_log = random(channels, states, exact, 7, 0.125);
    for (Index e = 0; e < channels; ++e)
      for (Index n = 0; n < states; ++n)
        a_log(e, n) = static_cast<float>(a_log(e, n) + std::log(static_cast<double>(n + 1)));
    d = random(1, channels, exact, 8);
    dy = random(tokens, channels, dtype, 9);
  }

  Host expected(const std::vector<Span>& spans, Host* state = nullptr) const {
    return reference::selective_scan(u, dt, b, c, z, dt_bias, a_log, d, spans, state);
  }
};

class SelectiveScan : public KernelTest {
 protected:
  /// Rows first .. first + rows - 1 of x, uploaded with a gap behind each row.
  View rows(const Host& x, Index first, Index count, Index gap) {
    return upload(x, dtype(), gap).block(first, count);
  }

  op::SelectiveScan scan(const Inputs& in, const Batch& batch, View y, Index first = 0,
                         Index gap = 3) {
    const Index n = batch.tokens;
    return {.y = y,
            .u = rows(in.u, first, n, gap),
            .dt = rows(in.dt, first, n, gap),
            .b = rows(in.b, first, n, gap),
            .c = rows(in.c, first, n, gap),
            .z = in.z.rows > 0 ? rows(in.z, first, n, gap) : View{},
            .dt_bias = upload(in.dt_bias, exact()),
            .a_log = upload(in.a_log, exact()),
            .d = upload(in.d, exact()),
            .batch = batch};
  }

  /// In f64 the same bits, else the tolerance law: different chunks, different company.
  void expect_agrees(const Host& actual, const Host& expected, Index terms) {
    if (dtype() == DType::f64)
      expect_same(actual, expected);
    else
      expect_close(actual, expected, dtype(), terms);
  }
};

}  // namespace samba::test
