#include "kernels/linear_attention.h"

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

class LinearAttention : public KernelTest {
 protected:
  /// The op for `count` rows from `first` on of uploaded inputs.
  struct Uploaded {
    View q, k, v, gate;
  };
  Uploaded uploaded(const Inputs& in) {
    return {upload(in.q, dtype(), 3), upload(in.k), upload(in.v, dtype(), 1),
            in.gate.rows > 0 ? upload(in.gate) : View{}};
  }
  static View rows(View x, Index first, Index count) {
    return x.empty() ? x : x.block(first, count);
  }
  View forward(const Uploaded& in, const Shape& s, const std::vector<Span>& spans, Index first,
               Index count, View state = {}) {
    const View y = empty(count, s.heads * s.values, dtype(), 2);
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
        const View y = forward(uploaded(in), s, spans, 0, length + 9);
        expect_close(
            host(y),
            reference::linear_attention(in.q, in.k, in.v, in.gate, s.heads, scale_of(s), spans),
            dtype(), terms(s, length));
      }
}

TEST_P(LinearAttention, StrongDecaysStayFinite) {
  const Shape s{2, 9, 20};
  for (const double gate_scale : {50.0, 400.0}) {
    const Inputs in = inputs(s, 100, dtype(), true, gate_scale);
    const std::vector<Span> spans{{0, 100, 0}};
    const View y = forward(uploaded(in), s, spans, 0, 100);
    expect_close(
        host(y),
        reference::linear_attention(in.q, in.k, in.v, in.gate, s.heads, scale_of(s), spans),
        dtype(), terms(s, 100));
  }
}

TEST_P(LinearAttention, CuttingASequenceChangesNothing) {
  for (const Shape& s : kShapes)
    for (const bool gated : {false, true}) {
      const Index length = 150;
      const Inputs in = inputs(s, length, dtype(), gated);
      const Uploaded up = uploaded(in);
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
          expect_close(part, expected, dtype(), terms(s, length));
        first += piece;
      }
      ASSERT_EQ(first, length);
      Host kept;
      reference::linear_attention(in.q, in.k, in.v, in.gate, s.heads, scale_of(s), {{0, length, 0}},
                                  &kept);
      expect_close(host(state.block(2, 1)), kept, exact(), Law{length});
      for (const double value : host(state.block(0, 1)).values) ASSERT_TRUE(std::isnan(value));
    }
}

TEST_P(LinearAttention, CompanyAndThreadsChangeNoBit) {
  const Shape s{2, 20, 100};
  const Inputs in = inputs(s, 120, dtype(), true);
  const Uploaded up = uploaded(in);
  const std::vector<Span> packed{{0, 1, 0}, {1, 9, 0}, {10, 90, 0}, {100, 20, 0}};
  const View y = forward(up, s, packed, 0, 120);
  for (const int threads : {1, 2, 7}) {
    Stream other(threads, GetParam().tier);
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

TEST_P(LinearAttention, BackwardMatchesFloat64) {
  Stream plain(1, Tier::plain);
  for (const Shape& s : kShapes)
    for (const bool gated : {false, true}) {
      const Index tokens = 140;
      const Inputs in = inputs(s, tokens, dtype(), gated);
      const Host dy = random(tokens, s.heads * s.values, dtype(), 5);
      const std::vector<Span> spans{{0, 3, 0}, {3, 130, 0}, {133, 7, 0}};
      const auto gradients = [&](Stream& where, DType type) {
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
      };
      const auto actual = gradients(stream(), dtype()), expected = gradients(plain, DType::f64);
      for (std::size_t i = 0; i < actual.size(); ++i) {
        SCOPED_TRACE(i);
        // A gate takes part in all pairs of a token before it and one behind it.
        const Index sums = terms(s, tokens) * (i == 3 ? tokens : 1);
        expect_close(actual[i], expected[i], dtype(), sums + s.values);
      }
    }
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
