#include "kernels/linear_attention.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "kernels/run.h"
#include "support/gradient.h"
#include "support/kernel_test.h"
#include "support/reference.h"

namespace samba::test {
namespace {

struct Shape {
  Index heads, keys, values;
};
const Shape kShapes[] = {{1, 1, 1}, {2, 5, 3}, {3, 16, 40}, {1, 33, 96}, {2, 64, 17}};
/// Heads as wide as those of models, which a GPU splits into several blocks, and some beyond what
/// its chunks take.
const Shape kWideShapes[] = {
    {2, 192, 384}, {1, 256, 512}, {1, 100, 136}, {1, 24, 104}, {1, 264, 520}};

struct Inputs {
  Host q, k, v, gate;
};

/// Decays near those of a trained model, or so strong that chunks must end early.
Inputs inputs(const Shape& s, Index tokens, DType dtype, bool gated, double gate_scale = 3) {
  const Index keys = s.heads * s.keys;
  return {random(tokens, keys, dtype, 1), random(tokens, keys, dtype, 2),
          random(tokens, s.heads * s.values, dtype, 3),
          gated ? random(tokens, keys, dtype, 4, gate_scale) : Host()};
}

double scale_of(const Shape& s) {
  return 1 / std::sqrt(static_cast<double>(s.keys));
}

/// A GPU's tensor cores take factors of bf16: queries and keys with their decays, scores, states.
Law law_of(const Target& target, Index terms) {
  const bool rounds = target.cuda && target.dtype == DType::bf16;
  return {.terms = terms, .rounded = rounds ? DType::bf16 : DType::f32, .roundings = 4};
}

class LinearAttention : public KernelTest {
 protected:
  /// Elements between rows of values: whole vectors where a head is.
  static Index gap_of(const Host& values, Index heads) {
    return values.cols / heads % 8 == 0 ? 8 : 1;
  }
  /// The op for `count` rows from `first` on of uploaded inputs.
  struct Uploaded {
    View q, k, v, gate;
  };
  Uploaded uploaded(const Inputs& in, const Shape& s) {
    return {upload(in.q, dtype(), 3), upload(in.k), upload(in.v, dtype(), gap_of(in.v, s.heads)),
            in.gate.rows > 0 ? upload(in.gate) : View{}};
  }
  static View rows(View x, Index first, Index count) {
    return x.empty() ? x : x.block(first, count);
  }
  View forward(const Uploaded& in, const Shape& s, const std::vector<Span>& spans, Index first,
               Index count, View state = {}) {
    const View y =
        empty(count, s.heads * s.values, dtype(), gap_of(Host(0, s.heads * s.values), s.heads));
    run(stream(), op::LinearAttention{.y = y,
                                      .q = rows(in.q, first, count),
                                      .k = rows(in.k, first, count),
                                      .v = rows(in.v, first, count),
                                      .gate = rows(in.gate, first, count),
                                      .heads = s.heads,
                                      .scale = scale_of(s),
                                      .batch = batch_of(spans),
                                      .state = state});
    return y;
  }
  /// A state sums over all tokens, an output over those and the keys.
  static Index terms(const Shape& s, Index tokens) { return tokens * s.keys; }
};
SAMBA_KERNEL_TEST(LinearAttention);

TEST_P(LinearAttention, MatchesTheRecurrence) {
  for (const Shape& s : kShapes)
    for (const bool gated : {false, true})
      for (const Index length : {1, 7, 8, 64, 65, 150}) {
        const Inputs in = inputs(s, length + 9, dtype(), gated);
        const std::vector<Span> spans{{0, 9, 0}, {9, length, 0}};
        const View y = forward(uploaded(in, s), s, spans, 0, length + 9);
        expect_close(
            host(y),
            reference::linear_attention(in.q, in.k, in.v, in.gate, s.heads, scale_of(s), spans),
            dtype(), law_of(GetParam(), terms(s, std::max<Index>(9, length))));
      }
}

TEST_P(LinearAttention, TakesWideHeads) {
  SAMBA_SKIP_ON_SLOWER_TIERS();
  for (const Shape& s : kWideShapes)
    for (const bool gated : {false, true}) {
      const Index length = 200;
      const Inputs in = inputs(s, length, dtype(), gated);
      const std::vector<Span> spans{{0, length, 0}};
      const View y = forward(uploaded(in, s), s, spans, 0, length);
      expect_close(
          host(y),
          reference::linear_attention(in.q, in.k, in.v, in.gate, s.heads, scale_of(s), spans),
          dtype(), law_of(GetParam(), terms(s, length)));
    }
}

TEST_P(LinearAttention, StrongDecaysStayFinite) {
  for (const Shape& s : {Shape{2, 9, 20}, Shape{2, 10, 24}})
    for (const double gate_scale : {20.0, 50.0, 400.0}) {
      const Inputs in = inputs(s, 200, dtype(), true, gate_scale);
      const std::vector<Span> spans{{0, 200, 0}};
      const View y = forward(uploaded(in, s), s, spans, 0, 200);
      expect_close(
          host(y),
          reference::linear_attention(in.q, in.k, in.v, in.gate, s.heads, scale_of(s), spans),
          dtype(), law_of(GetParam(), terms(s, 200)));
    }
}

TEST_P(LinearAttention, CuttingASequenceChangesNothing) {
  for (const Shape& s : kShapes)
    for (const bool gated : {false, true}) {
      const Index length = 150;
      const Inputs in = inputs(s, length, dtype(), gated);
      const Uploaded up = uploaded(in, s);
      const Host whole = host(forward(up, s, {{0, length, 0}}, 0, length));
      const View state = empty(3, s.heads * s.keys * s.values, exact());
      Index first = 0;
      for (const Index piece : {1, 2, 70, 1, 1, 9, 66}) {
        const Host part = host(forward(up, s, {{0, piece, first, 2}}, first, piece, state));
        Host expected(piece, whole.cols);
        for (Index r = 0; r < piece; ++r)
          for (Index c = 0; c < whole.cols; ++c) expected(r, c) = whole(first + r, c);
        if (dtype() == DType::f64)
          expect_same(part, expected);
        else
          expect_close(part, expected, dtype(), law_of(GetParam(), terms(s, length)));
        first += piece;
      }
      ASSERT_EQ(first, length);
      Host kept;
      reference::linear_attention(in.q, in.k, in.v, in.gate, s.heads, scale_of(s), {{0, length, 0}},
                                  &kept);
      expect_close(host(state.block(2, 1)), kept, exact(), law_of(GetParam(), length));
      for (const double value : host(state.block(0, 1)).values) ASSERT_TRUE(std::isnan(value));
    }
}

TEST_P(LinearAttention, CompanyAndThreadsChangeNoBit) {
  for (const Shape& s : {Shape{2, 20, 100}, Shape{2, 20, 104}}) {
    const Inputs in = inputs(s, 120, dtype(), true);
    const Uploaded up = uploaded(in, s);
    const std::vector<Span> packed{{0, 1, 0}, {1, 9, 0}, {10, 90, 0}, {100, 20, 0}};
    const View y = forward(up, s, packed, 0, 120);
    for (const int threads : {1, 2, 7}) {
      Stream other = GetParam().stream(threads);
      for (const Span& span : packed) {
        const std::vector<Span> alone{{0, span.length, 0}};
        const View part = empty(span.length, s.heads * s.values);
        run(other, op::LinearAttention{.y = part,
                                       .q = up.q.block(span.first, span.length),
                                       .k = up.k.block(span.first, span.length),
                                       .v = up.v.block(span.first, span.length),
                                       .gate = up.gate.block(span.first, span.length),
                                       .heads = s.heads,
                                       .scale = scale_of(s),
                                       .batch = batch_of(alone)});
        expect_same(host(part), host(y.block(span.first, span.length)));
      }
    }
  }
}

class LinearAttentionGradients : public LinearAttention {
 protected:
  /// dq, dk, dv and, with a gate, dgate.
  std::vector<Host> gradients(Stream& where, DType type, const Shape& s, const Inputs& in,
                              const Host& dy, const std::vector<Span>& spans) {
    const bool gated = in.gate.rows > 0;
    const Index tokens = dy.rows;
    const View dq = empty(tokens, in.q.cols, type), dk = empty(tokens, in.q.cols, type);
    const View dv = empty(tokens, in.v.cols, type, 2);
    const View dgate = gated ? empty(tokens, in.q.cols, type) : View{};
    run(where, op::LinearAttentionBackward{.dq = dq,
                                           .dk = dk,
                                           .dv = dv,
                                           .dgate = dgate,
                                           .dy = upload(dy, type),
                                           .q = upload(in.q, type),
                                           .k = upload(in.k, type),
                                           .v = upload(in.v, type),
                                           .gate = gated ? upload(in.gate, type) : View{},
                                           .heads = s.heads,
                                           .scale = scale_of(s),
                                           .batch = batch_of(spans)});
    std::vector<Host> all{host(dq), host(dk), host(dv)};
    if (gated) all.push_back(host(dgate));
    return all;
  }
  void expect_gradients(const Shape& s, const Inputs& in, const std::vector<Span>& spans) {
    Stream plain(1, Tier::plain);
    const Index tokens = in.q.rows;
    const Host dy = random(tokens, s.heads * s.values, dtype(), 5);
    const auto actual = gradients(stream(), dtype(), s, in, dy, spans);
    const auto expected = gradients(plain, DType::f64, s, in, dy, spans);
    for (std::size_t i = 0; i < actual.size(); ++i) {
      SCOPED_TRACE(i);
      // A gate takes part in all pairs of a token before it and one behind it.
      const Index sums = terms(s, tokens) * (i == 3 ? tokens : 1);
      expect_close(actual[i], expected[i], dtype(), law_of(GetParam(), sums + s.values));
    }
  }
};
SAMBA_KERNEL_TEST(LinearAttentionGradients);

TEST_P(LinearAttentionGradients, MatchFloat64) {
  for (const Shape& s : kShapes)
    for (const bool gated : {false, true})
      expect_gradients(s, inputs(s, 140, dtype(), gated), {{0, 3, 0}, {3, 130, 0}, {133, 7, 0}});
}

TEST_P(LinearAttentionGradients, MatchFloat64WithWideHeads) {
  SAMBA_SKIP_ON_SLOWER_TIERS();
  for (const Shape& s : kWideShapes)
    for (const bool gated : {false, true})
      expect_gradients(s, inputs(s, 150, dtype(), gated), {{0, 129, 0}, {129, 21, 0}});
}

TEST_P(LinearAttentionGradients, StrongDecaysStayFinite) {
  const Shape s{2, 10, 24};
  for (const double gate_scale : {20.0, 50.0, 400.0})
    expect_gradients(s, inputs(s, 200, dtype(), true, gate_scale), {{0, 200, 0}});
}

/// The gradient of a gate is a difference of sums over all later tokens.
TEST_P(LinearAttentionGradients, OfGatesStayCloseOverLongSequences) {
  const Shape s{1, 32, 64};
  expect_gradients(s, inputs(s, 3000, dtype(), true), {{0, 3000, 0}});
}

TEST(LinearAttentionBackward, MatchesFiniteDifferences) {
  Stream plain(2, Tier::plain);
  const Shape s{2, 5, 3};
  const Index tokens = 80;
  for (const bool gated : {false, true}) {
    const Inputs in = inputs(s, tokens, DType::f64, gated);
    const auto matrix = [&](const Host& x) {
      Matrix m(plain, DType::f64, x.rows, x.cols);
      for (Index r = 0; r < x.rows; ++r)
        for (Index c = 0; c < x.cols; ++c) m.view().row<double>(r)[c] = x(r, c);
      return m;
    };
    const auto like = [&](const Host& x) { return Matrix(plain, DType::f64, x.rows, x.cols); };
    Matrix q = matrix(in.q), k = matrix(in.k), v = matrix(in.v);
    Matrix gate = gated ? matrix(in.gate) : Matrix();
    Matrix dq = like(in.q), dk = like(in.k), dv = like(in.v), y = like(in.v);
    Matrix dgate = gated ? like(in.gate) : Matrix();
    const Host dy = random(tokens, in.v.cols, DType::f64, 5);
    const Matrix dy_matrix = matrix(dy);
    const std::vector<Span> spans{{0, 73, 0}, {73, 7, 0}};
    run(plain, op::LinearAttentionBackward{.dq = dq,
                                           .dk = dk,
                                           .dv = dv,
                                           .dgate = gated ? dgate.view() : View{},
                                           .dy = dy_matrix,
                                           .q = q,
                                           .k = k,
                                           .v = v,
                                           .gate = gated ? gate.view() : View{},
                                           .heads = s.heads,
                                           .scale = scale_of(s),
                                           .batch = batch_of(spans)});
    const auto loss = [&] {
      run(plain, op::LinearAttention{.y = y,
                                     .q = q,
                                     .k = k,
                                     .v = v,
                                     .gate = gated ? gate.view() : View{},
                                     .heads = s.heads,
                                     .scale = scale_of(s),
                                     .batch = batch_of(spans)});
      return dot(dy, host(y));
    };
    expect_gradient(q, host(dq), loss);
    expect_gradient(k, host(dk), loss);
    expect_gradient(v, host(dv), loss);
    if (gated) expect_gradient(gate, host(dgate), loss);
  }
}

TEST_P(LinearAttention, RefusesWhatDoesNotFit) {
  const std::vector<Span> spans{{0, 4, 0, 2}};
  op::LinearAttention op{.y = empty(4, 6),
                         .q = zeros(4, 10, dtype()),
                         .k = zeros(4, 10, dtype()),
                         .v = zeros(4, 6, dtype()),
                         .heads = 2,
                         .scale = 1,
                         .batch = batch_of(spans)};
  op.state = empty(2, 2 * 5 * 3, exact());
  EXPECT_THROW(run(stream(), op), Error);
  op.state = empty(3, 5 * 3, exact());
  EXPECT_THROW(run(stream(), op), Error);
  op.state = {};
  op.heads = 3;
  EXPECT_THROW(run(stream(), op), Error);
  op.heads = 2;
  op.k = zeros(4, 8, dtype());
  EXPECT_THROW(run(stream(), op), Error);
}

}  // namespace
}  // namespace samba::test
