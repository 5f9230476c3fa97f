#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "core/error.h"
#include "kernels/attention_fixture.h"
#include "kernels/run.h"
#include "support/gradient.h"

namespace samba::test {
namespace {

class AttentionBackward : public Attention {
 protected:
  struct Gradients {
    Host dq, dk, dv;
  };

  /// Backward of the spans with y and lse of float64, rounded as forward leaves them.
  Gradients backward(Stream& on, const Shape& s, const Inputs& in, const Host& dy, DType type,
                     const std::vector<Span>& spans, Index gap = 0) {
    Stream plain(1, Tier::plain);
    const View exact_y = empty(s.length, s.y_cols(), DType::f64),
               exact_lse = empty(s.length, s.heads.heads, DType::f64);
    const View views[3] = {upload(in.q, DType::f64), upload(in.k, DType::f64),
                           upload(in.v, DType::f64)};
    op::Attention forward = call(s, views, exact_y, spans);
    forward.lse = exact_lse;
    run(plain, forward);
    const Host y = host(upload(host(exact_y))), lse = host(upload(host(exact_lse), exact()));
    const View dq = empty(s.length, s.q_cols(), type, gap),
               dk = empty(s.length, s.k_cols(), type, gap);
    const View dv = empty(s.length, s.v_cols(), type, gap);
    run(on, op::AttentionBackward{.dq = dq,
                                  .dk = dk,
                                  .dv = dv,
                                  .dy = upload(dy, type, gap),
                                  .y = upload(y, type, gap),
                                  .lse = upload(lse, exact_of(type), gap),
                                  .q = upload(in.q, type, gap),
                                  .k = upload(in.k, type, gap),
                                  .v = upload(in.v, type, gap),
                                  .heads = s.heads,
                                  .window = s.window,
                                  .chunked = s.chunked,
                                  .scale = s.scale(),
                                  .batch = batch_of(spans)});
    return {host(dq), host(dk), host(dv)};
  }
};
SAMBA_KERNEL_TEST(AttentionBackward);

TEST_P(AttentionBackward, MatchesFloat64) {
  Stream plain(1, Tier::plain);
  for (const Shape& s : kShapes) {
    const Inputs in = inputs(s);
    const Host dy = random(s.length, s.y_cols(), dtype(), 5);
    const std::vector<Span> spans = {{.first = 0, .length = s.length, .position = 0}};
    const Gradients found = backward(stream(), s, in, dy, dtype(), spans, 3);
    const Gradients exact64 = backward(plain, s, in, dy, DType::f64, spans);
    // Where few keys are seen weights are near 1 and gradients of weights, of the root of the
    // values' width as rms, cancel before they are scaled.
    const double rms = s.scale() * std::sqrt(static_cast<double>(s.heads.value_width));
    // The heads of a group add to one dk and dv.
    const Law within{.terms = s.heads.heads / s.heads.kv_heads * s.terms(),
                     .rounded = dtype(),
                     .rms = std::max(1.0, rms)};
    expect_close(found.dq, exact64.dq, dtype(), within);
    expect_close(found.dk, exact64.dk, dtype(), within);
    expect_close(found.dv, exact64.dv, dtype(), within);
  }
}

/// Blocks of 64 queries and of 128 keys, as the tensor cores take them: spans that end in, at and
/// behind a block's edge, windows that end there too, chunks that do not begin with their span.
TEST_P(AttentionBackward, MatchesFloat64AcrossBlocks) {
  SAMBA_SKIP_ON_SLOWER_TIERS();
  struct Case {
    Shape shape;
    std::vector<Span> spans;
  };
  const auto one = [](Index length) {
    return std::vector<Span>{{.first = 0, .length = length, .position = 0}};
  };
  const std::vector<Span> several = {{.first = 0, .length = 1, .position = 0},
                                     {.first = 1, .length = 130, .position = 5},
                                     {.first = 131, .length = 64, .position = 70},
                                     {.first = 195, .length = 290, .position = 0}};
  const std::vector<Case> cases = {
      {{{1, 1, 64}, 64, kFull}, one(64)},         {{{2, 1, 64}, 65, 64}, one(65)},
      {{{4, 2, 64}, 300, 65}, one(300)},          {{{3, 1, 64}, 513, kFull}, one(513)},
      {{{2, 2, 128}, 128, kFull}, one(128)},      {{{2, 2, 128}, 129, 127}, one(129)},
      {{{4, 1, 128}, 400, 128}, one(400)},        {{{2, 2, 128}, 700, 129}, one(700)},
      {{{2, 1, 128}, 640, 1}, one(640)},          {{{1, 1, 256}, 200, 70}, one(200)},
      {{{4, 2, 24, 40}, 300, 70}, one(300)},      {{{1, 1, 32, 200}, 230, 96, true}, one(230)},
      {{{1, 1, 136, 264}, 150, kFull}, one(150)}, {{{2, 1, 96}, 485, 100}, several},
      {{{4, 1, 16}, 485, 70, true}, several},     {{{2, 1, 128}, 485, 100}, several},
      {{{2, 2, 64}, 485, 200}, several},          {{{2, 1, 128}, 485, 96, true}, several},
      {{{2, 1, 64}, 485, 150, true}, several},
  };
  Stream plain(1, Tier::plain);
  for (const Case& c : cases) {
    const Shape& s = c.shape;
    const Inputs in = inputs(s);
    const Host dy = random(s.length, s.y_cols(), dtype(), 5);
    const Gradients found = backward(stream(), s, in, dy, dtype(), c.spans, 8);
    const Gradients exact64 = backward(plain, s, in, dy, DType::f64, c.spans);
    // Weights are rounded before their product with dy, and again as part of their gradients; the
    // heads of a group add to one dk and dv.
    const double rms = s.scale() * std::sqrt(static_cast<double>(s.heads.value_width));
    const Law within{.terms = s.heads.heads / s.heads.kv_heads * s.terms(),
                     .rounded = dtype(),
                     .roundings = 2,
                     .rms = std::max(1.0, rms)};
    expect_close(found.dq, exact64.dq, dtype(), within);
    expect_close(found.dk, exact64.dk, dtype(), within);
    expect_close(found.dv, exact64.dv, dtype(), within);
  }
}

/// More blocks of keys than a GPU has multiprocessors, whose parts of dq add up in one order.
TEST_P(AttentionBackward, ManyBlocksTwiceAreTheSame) {
  SAMBA_SKIP_ON_SLOWER_TIERS();
  const Shape s{{8, 8, 64}, 3000, 300};
  const Inputs in = inputs(s);
  const View y = upload(random(s.length, s.y_cols(), dtype(), 4)),
             dy = upload(random(s.length, s.y_cols(), dtype(), 5)),
             lse = upload(random(s.length, s.heads.heads, exact(), 6), exact());
  const std::vector<Span> spans = {{.first = 0, .length = 1700, .position = 0},
                                   {.first = 1700, .length = 1300, .position = 0}};
  Gradients found[2];
  for (Gradients& gradients : found) {
    const View dq = empty(s.length, s.q_cols()), dk = empty(s.length, s.k_cols()),
               dv = empty(s.length, s.v_cols());
    run(stream(), op::AttentionBackward{.dq = dq,
                                        .dk = dk,
                                        .dv = dv,
                                        .dy = dy,
                                        .y = y,
                                        .lse = lse,
                                        .q = in.views[0],
                                        .k = in.views[1],
                                        .v = in.views[2],
                                        .heads = s.heads,
                                        .window = s.window,
                                        .scale = s.scale(),
                                        .batch = batch_of(spans)});
    gradients = {host(dq), host(dk), host(dv)};
  }
  expect_same(found[0].dq, found[1].dq);
  expect_same(found[0].dk, found[1].dk);
  expect_same(found[0].dv, found[1].dv);
}

TEST_P(AttentionBackward, TwiceAndInCompanyIsTheSame) {
  for (const Shape& s : {Shape{{4, 2, 16}, 230, 40}, Shape{{4, 2, 128}, 330, 140}}) {
    const Inputs in = inputs(s);
    const Host dy = random(s.length, s.q_cols(), dtype(), 5);
    const std::vector<Span> whole = {{.first = 0, .length = s.length, .position = 0}};
    const Gradients once = backward(stream(), s, in, dy, dtype(), whole);
    const Gradients twice = backward(stream(), s, in, dy, dtype(), whole);
    expect_same(once.dq, twice.dq);
    expect_same(once.dk, twice.dk);
    expect_same(once.dv, twice.dv);
    const auto doubled = [&](const Host& x) {
      Host y(50 + x.rows, x.cols);
      std::copy(x.values.begin(), x.values.begin() + 50 * x.cols, y.values.begin());
      std::copy(x.values.begin(), x.values.end(), y.values.begin() + 50 * x.cols);
      return y;
    };
    const Shape both{s.heads, s.length + 50, s.window};
    Inputs packed{doubled(in.q), doubled(in.k), doubled(in.v), {}};
    const std::vector<Span> spans = {{.first = 0, .length = 50, .position = 0},
                                     {.first = 50, .length = s.length, .position = 0}};
    const Gradients company = backward(stream(), both, packed, doubled(dy), dtype(), spans);
    const auto own = [&](const Host& x) {
      Host y(s.length, x.cols);
      std::copy(x.values.begin() + 50 * x.cols, x.values.end(), y.values.begin());
      return y;
    };
    expect_same(own(company.dq), once.dq);
    expect_same(own(company.dk), once.dk);
    expect_same(own(company.dv), once.dv);
  }
}

TEST_P(AttentionBackward, RefusesSpansWithState) {
  const Shape s{{1, 1, 4}, 3, 2};
  const Inputs in = inputs(s);
  const Host dy = random(3, 4, dtype(), 5);
  const std::vector<Span> spans = {{.first = 0, .length = 3, .position = 0, .slot = 0}};
  EXPECT_THROW(backward(stream(), s, in, dy, dtype(), spans), Error);
}

TEST(AttentionGradient, MatchesFiniteDifferences) {
  Stream plain(2, Tier::plain);
  // Two spans, grouped heads of wider values, and windows and chunks shorter than both.
  const std::vector<Span> spans = {{.first = 0, .length = 9, .position = 0},
                                   {.first = 9, .length = 121, .position = 3}};
  const op::Heads heads{4, 2, 3, 5};
  const Index n = 130;
  const auto filled = [&](Index cols, int seed) {
    Matrix x(plain, DType::f64, n, cols);
    Host values = random(n, cols, DType::f64, seed);
    copy(x, View{reinterpret_cast<std::byte*>(values.values.data()), n, cols, cols, DType::f64});
    return x;
  };
  const Matrix q = filled(12, 1), k = filled(6, 2), v = filled(10, 3), dy = filled(20, 4);
  const Matrix y(plain, DType::f64, n, 20), lse(plain, DType::f64, n, 4);
  const Matrix dq(plain, DType::f64, n, 12), dk(plain, DType::f64, n, 6),
      dv(plain, DType::f64, n, 10);
  for (const auto& [window, chunked] : {std::pair{Index{1}, false},
                                        {7, false},
                                        {110, false},
                                        {kFull, false},
                                        {1, true},
                                        {20, true},
                                        {100, true}}) {
    const auto loss = [&, window = window, chunked = chunked] {
      run(plain, op::Attention{.y = y,
                               .lse = lse,
                               .q = q,
                               .k = k,
                               .v = v,
                               .heads = heads,
                               .window = window,
                               .chunked = chunked,
                               .scale = 0.7,
                               .batch = batch_of(spans)});
      return dot(host(dy), host(y));
    };
    loss();
    run(plain, op::AttentionBackward{.dq = dq,
                                     .dk = dk,
                                     .dv = dv,
                                     .dy = dy,
                                     .y = y,
                                     .lse = lse,
                                     .q = q,
                                     .k = k,
                                     .v = v,
                                     .heads = heads,
                                     .window = window,
                                     .chunked = chunked,
                                     .scale = 0.7,
                                     .batch = batch_of(spans)});
    expect_gradient(q, host(dq), loss);
    expect_gradient(k, host(dk), loss);
    expect_gradient(v, host(dv), loss);
  }
}

}  // namespace
}  // namespace samba::test
