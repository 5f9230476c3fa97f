#include <algorithm>
#include <cmath>
#include <vector>

#include "core/error.h"
#include "kernels/run.h"
#include "kernels/selective_scan_fixture.h"
#include "support/gradient.h"

namespace samba::test {
namespace {

/// Runs forward for the saved states, then backward, on a stream of its own or the fixture's.
struct Gradients {
  Host du, ddt, db, dc, dz, ddt_bias, da_log, dd;
};

class SelectiveScanBackward : public SelectiveScan {
 protected:
  Gradients gradients(Stream& on, const Inputs& in, const std::vector<Span>& spans, DType type,
                      Index gap = 1, Index chunk = kChunk) {
    const DType exact_type = exact_of(type);
    const Index tokens = in.u.rows, channels = in.u.cols, states = in.b.cols;
    const bool gated = in.z.rows > 0;
    const Batch batch = batch_of(spans);
    const auto up = [&](const Host& x, DType t) { return upload(x, t, gap); };
    const View y = empty(tokens, channels, type);
    const View h = empty(op::SelectiveScan::chunks(batch, chunk), channels * states, exact_type);
    const op::SelectiveScan forward{.y = y,
                                    .u = up(in.u, type),
                                    .dt = up(in.dt, type),
                                    .b = up(in.b, type),
                                    .c = up(in.c, type),
                                    .z = gated ? up(in.z, type) : View{},
                                    .dt_bias = up(in.dt_bias, exact_type),
                                    .a_log = up(in.a_log, exact_type),
                                    .d = up(in.d, exact_type),
                                    .batch = batch,
                                    .h = h,
                                    .chunk = chunk};
    run(on, forward);
    const op::SelectiveScanBackward backward{
        .du = empty(tokens, channels, type, 2 * gap),
        .ddt = empty(tokens, channels, type, 2 * gap),
        .db = empty(tokens, states, type, 2 * gap),
        .dc = empty(tokens, states, type, 2 * gap),
        .dz = gated ? empty(tokens, channels, type, 2 * gap) : View{},
        .ddt_bias = zeros(1, channels, exact_type),
        .da_log = zeros(channels, states, exact_type),
        .dd = zeros(1, channels, exact_type),
        .dy = up(in.dy, type),
        .u = forward.u,
        .dt = forward.dt,
        .b = forward.b,
        .c = forward.c,
        .z = forward.z,
        .dt_bias = forward.dt_bias,
        .a_log = forward.a_log,
        .d = forward.d,
        .h = h,
        .batch = batch,
        .chunk = chunk};
    run(on, backward);
    return {host(backward.du),
            host(backward.ddt),
            host(backward.db),
            host(backward.dc),
            gated ? host(backward.dz) : Host(),
            host(backward.ddt_bias),
            host(backward.da_log),
            host(backward.dd)};
  }

  /// Checks the gradients that the fixture's stream finds, with rows a gap apart.
  void expect_gradients(const Inputs& in, const std::vector<Span>& spans, const Gradients& exactly,
                        Index gap, Index chunk) {
    const Index tokens = in.u.rows, channels = in.u.cols, states = in.b.cols;
    // A parameter's gradient is a sum along time of numbers like ddt, which may cancel.
    const double summed = std::sqrt(static_cast<double>(tokens)) * rms(exactly.ddt.values);
    compare(gradients(stream(), in, spans, dtype(), gap, chunk), exactly,
            [&](const Host& found, const Host& expected, const char* name) {
              SCOPED_TRACE(testing::Message() << name << " E " << channels << " S " << states
                                              << " gap " << gap << " chunk " << chunk);
              Law law{.terms = tokens + channels + states};
              const bool of_parameter = found.rows != tokens;
              if (of_parameter) law.rms = std::max(summed, rms(expected.values));
              expect_close(found, expected, of_parameter ? exact() : dtype(), law);
            });
  }

  template <class Check>
  static void compare(const Gradients& a, const Gradients& b, Check&& check) {
    check(a.du, b.du, "du"), check(a.ddt, b.ddt, "ddt"), check(a.db, b.db, "db");
    check(a.dc, b.dc, "dc"), check(a.dz, b.dz, "dz"), check(a.ddt_bias, b.ddt_bias, "ddt_bias");
    check(a.da_log, b.da_log, "da_log"), check(a.dd, b.dd, "dd");
  }
};
SAMBA_KERNEL_TEST(SelectiveScanBackward);

TEST_P(SelectiveScanBackward, MatchesFloat64) {
  Stream plain(1, Tier::plain);
  for (const Index channels : {1, 17, 80})
    for (const Index states : {1, 7, 16, 35}) {
      const Index tokens = 2 * kChunk + 14;
      const Inputs in(tokens, channels, states, dtype());
      const std::vector<Span> spans{
          {0, 1, 0}, {1, 9, 0}, {10, 2 * kChunk + 3, 0}, {2 * kChunk + 13, 1, 0}};
      const Gradients exactly = gradients(plain, in, spans, DType::f64);
      for (const Index gap : {1, 8})
        for (const Index chunk : {kShortest, kChunk})
          expect_gradients(in, spans, exactly, gap, chunk);
    }
}

TEST_P(SelectiveScanBackward, MatchesFloat64AlsoWithManySpans) {
  Stream plain(1, Tier::plain);
  std::vector<Span> spans;
  Index tokens = 0;
  for (Index i = 0; i < 150; ++i) {
    const Index length = i == 70 ? kChunk + 17 : 1 + i * 5 % 11;
    spans.push_back({tokens, length, 0});
    tokens += length;
  }
  for (const Index channels : {66, 80}) {
    const Inputs in(tokens, channels, 16, dtype());
    const Gradients exactly = gradients(plain, in, spans, DType::f64);
    for (const Index chunk : {kShortest, kChunk})
      expect_gradients(in, spans, exactly, gap_for(channels), chunk);
  }
}

TEST_P(SelectiveScanBackward, WorksWithoutAGate) {
  Stream plain(1, Tier::plain);
  for (const Index channels : {18, 24}) {
    Inputs in(11, channels, 16, dtype());
    in.z = Host();
    const std::vector<Span> spans{{0, 11, 0}};
    const Gradients expected = gradients(plain, in, spans, DType::f64);
    const Gradients found = gradients(stream(), in, spans, dtype(), gap_for(channels));
    expect_close(found.du, expected.du, dtype(), terms(11, 16));
    expect_close(found.db, expected.db, dtype(), terms(11, channels));
    expect_close(found.da_log, expected.da_log, exact(), terms(11, 16));
  }
}

TEST_P(SelectiveScanBackward, TwiceIsTheSame) {
  const Inputs in(kChunk + 5, 200, 16, dtype());
  const std::vector<Span> spans{{0, 5, 0}, {5, kChunk, 0}};
  for (const Index chunk : {kShortest, kChunk})
    compare(gradients(stream(), in, spans, dtype(), 8, chunk),
            gradients(stream(), in, spans, dtype(), 8, chunk),
            [](const Host& a, const Host& b, const char* name) {
              SCOPED_TRACE(name);
              expect_same(a, b);
            });
}

TEST_P(SelectiveScanBackward, ChunksChangeOnlyTheOrderOfSumsAlongTime) {
  const Inputs in(2 * kChunk + 5, 200, 16, dtype());
  const std::vector<Span> spans{{0, 5, 0}, {5, 2 * kChunk, 0}};
  const Gradients longest = gradients(stream(), in, spans, dtype(), 8);
  for (const Index chunk : {16, 32})
    compare(gradients(stream(), in, spans, dtype(), 8, chunk), longest,
            [&](const Host& a, const Host& b, const char* name) {
              SCOPED_TRACE(name);
              if (a.rows == in.u.rows)
                expect_same(a, b);
              else
                expect_close(a, b, exact(), in.u.rows);
            });
}

TEST_P(SelectiveScanBackward, ThreadsChangeOnlyTheOrderOfSums) {
  const Inputs in(kChunk + 5, 200, 16, dtype());
  const std::vector<Span> spans{{0, 5, 0}, {5, kChunk, 0}};
  Stream alone = GetParam().stream(1);
  compare(gradients(stream(), in, spans, dtype()), gradients(alone, in, spans, dtype()),
          [&](const Host& a, const Host& b, const char* name) {
            SCOPED_TRACE(name);
            expect_close(a, b, dtype(), 200);
          });
}

TEST_P(SelectiveScanBackward, CompanyInTheBatchChangesNoBitOfARow) {
  const Inputs in(kChunk + 40, 48, 16, dtype());
  const std::vector<Span> packed{{0, 9, 0}, {9, kChunk + 7, 0}, {kChunk + 16, 24, 0}};
  const Span& span = packed[1];
  Inputs one(span.length, 48, 16, dtype());
  one.dt_bias = in.dt_bias, one.a_log = in.a_log, one.d = in.d;
  const auto cut = [&](const Host& from) {
    Host to(span.length, from.cols);
    for (Index t = 0; t < to.rows; ++t)
      for (Index i = 0; i < to.cols; ++i) to(t, i) = from(span.first + t, i);
    return to;
  };
  one.u = cut(in.u), one.dt = cut(in.dt), one.b = cut(in.b), one.c = cut(in.c), one.z = cut(in.z);
  one.dy = cut(in.dy);
  const std::vector<Span> alone{{0, span.length, 0}};
  for (const Index chunk : {kShortest, kChunk}) {
    const Gradients together = gradients(stream(), in, packed, dtype(), 8, chunk);
    const Gradients apart = gradients(stream(), one, alone, dtype(), 8, chunk);
    expect_same(apart.du, cut(together.du));
    expect_same(apart.ddt, cut(together.ddt));
    expect_same(apart.db, cut(together.db));
    expect_same(apart.dc, cut(together.dc));
    expect_same(apart.dz, cut(together.dz));
  }
}

TEST_P(SelectiveScanBackward, AddsToTheGradientsOfParameters) {
  const Inputs in(6, 17, 16, dtype());
  const std::vector<Span> spans{{0, 6, 0}};
  const Gradients once = gradients(stream(), in, spans, dtype());
  const Batch batch = batch_of(spans);
  const View y = empty(6, 17), h = empty(1, 17 * 16, exact());
  auto forward = scan(in, batch, y);
  forward.h = h;
  run(stream(), forward);
  const View ddt_bias = zeros(1, 17, exact()), da_log = zeros(17, 16, exact()),
             dd = zeros(1, 17, exact());
  for (const View& gradient : {ddt_bias, da_log, dd}) fill(gradient, 1);
  run(stream(), op::SelectiveScanBackward{.du = empty(6, 17),
                                          .ddt = empty(6, 17),
                                          .db = empty(6, 16),
                                          .dc = empty(6, 16),
                                          .dz = empty(6, 17),
                                          .ddt_bias = ddt_bias,
                                          .da_log = da_log,
                                          .dd = dd,
                                          .dy = upload(in.dy),
                                          .u = forward.u,
                                          .dt = forward.dt,
                                          .b = forward.b,
                                          .c = forward.c,
                                          .z = forward.z,
                                          .dt_bias = forward.dt_bias,
                                          .a_log = forward.a_log,
                                          .d = forward.d,
                                          .h = h,
                                          .batch = batch});
  const auto expect_one_more = [&](View found, Host expected) {
    for (double& value : expected.values) value += 1;
    expect_close(host(found), expected, exact(), 6);
  };
  expect_one_more(ddt_bias, once.ddt_bias);
  expect_one_more(da_log, once.da_log);
  expect_one_more(dd, once.dd);
}

TEST(SelectiveScanBackwardInFloat64, MatchesFiniteDifferences) {
  Stream plain(1, Tier::plain);
  const Index tokens = kChunk + 6, channels = 3, states = 5;
  const std::vector<Span> spans{{0, 2, 0}, {2, kChunk + 3, 0}, {kChunk + 5, 1, 0}};
  const Batch batch = batch_of(spans);
  const Inputs in(tokens, channels, states, DType::f64);
  std::vector<Matrix> owned;
  const auto matrix = [&](Index rows, Index cols) {
    owned.emplace_back(plain, DType::f64, rows, cols);
    fill(owned.back(), 0);
    return owned.back().view();
  };
  const auto filled = [&](const Host& x) {
    const View v = matrix(x.rows, x.cols);
    std::copy(x.values.begin(), x.values.end(), v.row<double>(0));
    return v;
  };
  const View u = filled(in.u), dt = filled(in.dt), b = filled(in.b), c = filled(in.c),
             z = filled(in.z);
  const View dt_bias = filled(in.dt_bias), a_log = filled(in.a_log), d = filled(in.d);
  const View y = matrix(tokens, channels);
  const View h = matrix(op::SelectiveScan::chunks(batch), channels * states);
  const op::SelectiveScan forward{.y = y,
                                  .u = u,
                                  .dt = dt,
                                  .b = b,
                                  .c = c,
                                  .z = z,
                                  .dt_bias = dt_bias,
                                  .a_log = a_log,
                                  .d = d,
                                  .batch = batch,
                                  .h = h};
  run(plain, forward);
  const View du = matrix(tokens, channels), ddt = matrix(tokens, channels),
             dz = matrix(tokens, channels);
  const View db = matrix(tokens, states), dc = matrix(tokens, states);
  const View ddt_bias = matrix(1, channels), da_log = matrix(channels, states),
             dd = matrix(1, channels);
  run(plain, op::SelectiveScanBackward{.du = du,
                                       .ddt = ddt,
                                       .db = db,
                                       .dc = dc,
                                       .dz = dz,
                                       .ddt_bias = ddt_bias,
                                       .da_log = da_log,
                                       .dd = dd,
                                       .dy = filled(in.dy),
                                       .u = u,
                                       .dt = dt,
                                       .b = b,
                                       .c = c,
                                       .z = z,
                                       .dt_bias = dt_bias,
                                       .a_log = a_log,
                                       .d = d,
                                       .h = h,
                                       .batch = batch});
  const auto loss = [&] {
    run(plain, forward);
    return dot(in.dy, host(y));
  };
  expect_gradient(u, host(du), loss);
  expect_gradient(dt, host(ddt), loss);
  expect_gradient(b, host(db), loss);
  expect_gradient(c, host(dc), loss);
  expect_gradient(z, host(dz), loss);
  expect_gradient(dt_bias, host(ddt_bias), loss);
  expect_gradient(a_log, host(da_log), loss);
  expect_gradient(d, host(dd), loss);
}

}  // namespace
}  // namespace samba::test
