#include "kernels/causal_conv1d.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "kernels/run.h"
#include "support/gradient.h"
#include "support/kernel_test.h"
#include "support/reference.h"

namespace samba::test {
namespace {

/// Weights of the size that they are initialised to.
Host taps_of(Index channels, Index taps, DType dtype) {
  return random(channels, taps, dtype, 2, 0.5);
}

class CausalConv1d : public KernelTest {
 protected:
  void expect_agrees(const Host& actual, const Host& expected, Index terms) {
    if (dtype() == DType::f64)
      expect_same(actual, expected);
    else
      expect_close(actual, expected, dtype(), terms);
  }
};
SAMBA_KERNEL_TEST(CausalConv1d);

TEST_P(CausalConv1d, MatchesTheDefinition) {
  for (const Index channels : {1, 17, 48, 200})
    for (const Index taps : {1, 2, 4, 7})
      for (const Index length : {1, 3, 101}) {
        const Host x = random(length + 2, channels, dtype(), 1),
                   w = taps_of(channels, taps, exact());
        const Host bias = random(1, channels, exact(), 3);
        const std::vector<Span> spans{{0, 2, 0}, {2, length, 0}};
        const Host expected = reference::causal_conv1d(x, w, bias, spans);
        for (const Index gap : {3, 4}) {
          const View y = empty(length + 2, channels, dtype(), gap);
          run(stream(), op::CausalConv1d{.y = y,
                                         .x = upload(x, dtype(), gap + 4),
                                         .w = upload(w, exact(), 1),
                                         .bias = upload(bias, exact()),
                                         .batch = batch_of(spans)});
          expect_close(host(y), expected, dtype(), taps + 1);
        }
      }
}

TEST_P(CausalConv1d, WorksWithoutABias) {
  const Host x = random(9, 17, dtype(), 1), w = taps_of(17, 4, exact());
  const std::vector<Span> spans{{0, 9, 0}};
  const View y = empty(9, 17);
  run(stream(),
      op::CausalConv1d{.y = y, .x = upload(x), .w = upload(w, exact()), .batch = batch_of(spans)});
  expect_close(host(y), reference::causal_conv1d(x, w, Host(), spans), dtype(), 4);
}

TEST_P(CausalConv1d, CuttingASequenceChangesNothing) {
  for (const Index taps : {1, 2, 4, 7}) {
    const Index length = 70;
    const Host x = random(length, 48, dtype(), 1), w = taps_of(48, taps, exact());
    const Host bias = random(1, 48, exact(), 3);
    const std::vector<Span> whole{{0, length, 0}};
    const View y = empty(length, 48), all = upload(x);
    const View w_view = upload(w, exact()), bias_view = upload(bias, exact());
    run(stream(), op::CausalConv1d{
                      .y = y, .x = all, .w = w_view, .bias = bias_view, .batch = batch_of(whole)});
    const View state = empty(3, (taps - 1) * 48, exact());
    Index first = 0;
    for (const Index piece : {1, 2, 1, 40, 1, 1, 1, 3, 20}) {
      const std::vector<Span> spans{{0, piece, first, 2}};
      const View part = empty(piece, 48);
      run(stream(), op::CausalConv1d{.y = part,
                                     .x = all.block(first, piece),
                                     .w = w_view,
                                     .bias = bias_view,
                                     .batch = batch_of(spans),
                                     .state = state});
      expect_agrees(host(part), host(y.block(first, piece)), taps + 1);
      first += piece;
      Host expected(1, (taps - 1) * 48);
      for (Index j = 0; j < taps - 1; ++j)
        for (Index e = 0; e < 48; ++e)
          expected(0, j * 48 + e) = first - (taps - 1) + j >= 0 ? x(first - (taps - 1) + j, e) : 0;
      expect_same(host(state.block(2, 1)), expected);
    }
    ASSERT_EQ(first, length);
    for (const double value : host(state.block(0, 1)).values) ASSERT_TRUE(std::isnan(value));
  }
}

TEST_P(CausalConv1d, CompanyInTheBatchChangesNoBit) {
  const Host x = random(50, 80, dtype(), 1), w = taps_of(80, 4, exact());
  const std::vector<Span> packed{{0, 1, 0}, {1, 2, 0}, {3, 40, 0}, {43, 7, 0}};
  const View y = empty(50, 80), all = upload(x), w_view = upload(w, exact());
  run(stream(), op::CausalConv1d{.y = y, .x = all, .w = w_view, .batch = batch_of(packed)});
  Stream one_thread = GetParam().stream(1);
  for (const Span& span : packed) {
    const std::vector<Span> alone{{0, span.length, 0}};
    const View part = empty(span.length, 80);
    run(one_thread, op::CausalConv1d{.y = part,
                                     .x = all.block(span.first, span.length),
                                     .w = w_view,
                                     .batch = batch_of(alone)});
    expect_same(host(part), host(y.block(span.first, span.length)));
  }
}

TEST_P(CausalConv1d, RefusesWhatDoesNotFit) {
  const std::vector<Span> spans{{0, 4, 0, 2}};
  op::CausalConv1d op{.y = empty(4, 17),
                      .x = zeros(4, 17, dtype()),
                      .w = zeros(17, 4, exact()),
                      .batch = batch_of(spans)};
  op.state = empty(2, 3 * 17, exact());
  EXPECT_THROW(run(stream(), op), Error);
  op.state = empty(3, 4 * 17, exact());
  EXPECT_THROW(run(stream(), op), Error);
  op.state = {};
  op.x = empty(4, 16);
  EXPECT_THROW(run(stream(), op), Error);
}

class CausalConv1dBackward : public KernelTest {
 protected:
  struct Gradients {
    Host dx, dw, dbias;
  };
  Gradients gradients(Stream& on, DType type, const Host& dy, const Host& x, const Host& w,
                      const Host& bias, const std::vector<Span>& spans, Index gap = 3) {
    const View dx = empty(x.rows, x.cols, type, gap), dw = zeros(w.rows, w.cols, exact_of(type));
    const View dbias = bias.rows > 0 ? zeros(1, x.cols, exact_of(type)) : View{};
    run(on, op::CausalConv1dBackward{.dx = dx,
                                     .dw = dw,
                                     .dbias = dbias,
                                     .dy = upload(dy, type),
                                     .x = upload(x, type),
                                     .w = upload(w, exact_of(type)),
                                     .bias = bias.rows > 0 ? upload(bias, exact_of(type)) : View{},
                                     .batch = batch_of(spans)});
    return {host(dx), host(dw), bias.rows > 0 ? host(dbias) : Host()};
  }
};
SAMBA_KERNEL_TEST(CausalConv1dBackward);

TEST_P(CausalConv1dBackward, MatchesFloat64) {
  Stream plain(1, Tier::plain);
  for (const Index channels : {1, 17, 200})
    for (const Index taps : {1, 2, 4, 7})
      for (const bool biased : {true, false}) {
        const Index tokens = 200;
        const Host x = random(tokens, channels, dtype(), 1), w = taps_of(channels, taps, exact());
        const Host dy = random(tokens, channels, dtype(), 4);
        const Host bias = biased ? random(1, channels, exact(), 3) : Host();
        const std::vector<Span> spans{{0, 2, 0},   {2, 1, 0},   {3, 76, 0},  {79, 1, 0},
                                      {80, 47, 0}, {127, 1, 0}, {128, 2, 0}, {130, 70, 0}};
        const Index gap = channels == 200 ? 4 : 3;
        const Gradients found = gradients(stream(), dtype(), dy, x, w, bias, spans, gap);
        const Gradients expected = gradients(plain, DType::f64, dy, x, w, bias, spans);
        // Each of the taps' gradients stands behind a sum of products and the bias, and in SiLU's
        // slope two terms of size 1 may cancel: what is left scales no more with w dy.
        const double summed = std::sqrt(static_cast<double>(taps)) * rms(w.values) * rms(dy.values);
        expect_close(
            found.dx, expected.dx, dtype(),
            Law{.terms = taps * (taps + 1), .rms = std::max(summed, rms(expected.dx.values))});
        expect_close(found.dw, expected.dw, exact(), tokens);
        expect_close(found.dbias, expected.dbias, exact(), tokens);
        const Gradients again = gradients(stream(), dtype(), dy, x, w, bias, spans, gap);
        expect_same(again.dx, found.dx);
        expect_same(again.dw, found.dw);
        expect_same(again.dbias, found.dbias);
      }
}

TEST(CausalConv1dBackwardInFloat64, MatchesFiniteDifferences) {
  Stream plain(1, Tier::plain);
  const Index tokens = 41, channels = 3, taps = 4;
  const std::vector<Span> spans{{0, 2, 0}, {2, 38, 0}, {40, 1, 0}};
  const Batch batch = batch_of(spans);
  const Host dy = random(tokens, channels, DType::f64, 4);
  Matrix x(plain, DType::f64, tokens, channels), w(plain, DType::f64, channels, taps),
      bias(plain, DType::f64, 1, channels);
  Matrix dx(plain, DType::f64, tokens, channels), dw(plain, DType::f64, channels, taps),
      dbias(plain, DType::f64, 1, channels);
  Matrix y(plain, DType::f64, tokens, channels), dy_matrix(plain, DType::f64, tokens, channels);
  const auto set = [](const Matrix& m, const Host& from) {
    std::copy(from.values.begin(), from.values.end(), m.row<double>(0));
  };
  set(x, random(tokens, channels, DType::f64, 1));
  set(w, taps_of(channels, taps, DType::f64));
  set(bias, random(1, channels, DType::f64, 3));
  set(dy_matrix, dy);
  fill(dw, 0);
  fill(dbias, 0);
  run(plain, op::CausalConv1dBackward{.dx = dx,
                                      .dw = dw,
                                      .dbias = dbias,
                                      .dy = dy_matrix,
                                      .x = x,
                                      .w = w,
                                      .bias = bias,
                                      .batch = batch});
  const auto loss = [&] {
    run(plain, op::CausalConv1d{.y = y, .x = x, .w = w, .bias = bias, .batch = batch});
    return dot(dy, host(y));
  };
  expect_gradient(x, host(dx), loss);
  expect_gradient(w, host(dw), loss);
  expect_gradient(bias, host(dbias), loss);
}

}  // namespace
}  // namespace samba::test
