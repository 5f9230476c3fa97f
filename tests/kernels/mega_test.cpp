#include "kernels/mega.h"

#include "core/error.h"
#include "kernels/run.h"
#include "support/gradient.h"
#include "support/kernel_test.h"
#include "support/reference.h"

namespace samba::test {
namespace {

constexpr double kScale = 0.3;
constexpr Index kOperations = 8;  // one after the other; each rounds as a term of a sum does

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

class MegaQueryKey : public KernelTest {
 protected:
  struct Inputs {
    Host z, gamma, beta, bias;
  };
  Inputs inputs(Index rows, Index width) const {
    return {random(rows, width, dtype(), 1, 2), random(2, width, exact(), 2),
            random(1, width, exact(), 3), random(2, width, exact(), 4)};
  }
  struct Gradients {
    Host dz, dgamma, dbeta, dbias;
  };
  /// Gradients on top of ones, for dq and dk [rows, 2 width].
  Gradients backward(Stream& on, DType type, const Inputs& in, const Host& dq, const Host& dk) {
    const Index width = in.z.cols;
    Host ones(2, width);
    for (double& value : ones.values) value = 1;
    const View dz = empty(in.z.rows, width, type, 1), dgamma = upload(ones, exact_of(type));
    const View both = upload(ones, exact_of(type)), dbias = upload(ones, exact_of(type));
    run(on, op::MegaQueryKeyBackward{.dz = dz,
                                     .dgamma = dgamma,
                                     .dbeta = both.block(0, 1),
                                     .dbias = dbias,
                                     .dq = upload(dq, type, 2),
                                     .dk = upload(dk, type, 3),
                                     .z = upload(in.z, type, 1),
                                     .gamma = upload(in.gamma, exact_of(type)),
                                     .scale = kScale});
    return {host(dz), host(dgamma), host(both.block(0, 1)), host(dbias)};
  }
};
SAMBA_KERNEL_TEST(MegaQueryKey);

TEST_P(MegaQueryKey, MatchesTheDefinition) {
  for (const Index width : {1, 17, 128}) {
    const Index rows = 70;
    const Inputs in = inputs(rows, width);
    Host q(rows, 2 * width), k(rows, 2 * width);
    for (Index n = 0; n < rows; ++n)
      for (Index i = 0; i < width; ++i) {
        const double s = reference::silu(in.z(n, i));
        q(n, i) = s * in.gamma(0, i) + in.beta(0, i);
        k(n, i) = s * in.gamma(1, i);
        q(n, width + i) = in.bias(0, i) / kScale;
        k(n, width + i) = in.bias(1, i);
      }
    const View out_q = empty(rows, 2 * width, dtype(), 1), out_k = empty(rows, 2 * width);
    run(stream(), op::MegaQueryKey{.q = out_q,
                                   .k = out_k,
                                   .z = upload(in.z, dtype(), 3),
                                   .gamma = upload(in.gamma, exact()),
                                   .beta = upload(in.beta, exact()),
                                   .bias = upload(in.bias, exact()),
                                   .scale = kScale});
    expect_close(host(out_q), q, dtype(), kOperations);
    expect_close(host(out_k), k, dtype(), kOperations);
    // Without gaps some widths are read by vectors, with the same bits.
    const View dense_q = empty(rows, 2 * width), dense_k = empty(rows, 2 * width);
    run(stream(), op::MegaQueryKey{.q = dense_q,
                                   .k = dense_k,
                                   .z = upload(in.z),
                                   .gamma = upload(in.gamma, exact()),
                                   .beta = upload(in.beta, exact()),
                                   .bias = upload(in.bias, exact()),
                                   .scale = kScale});
    expect_same(host(dense_q), host(out_q));
    expect_same(host(dense_k), host(out_k));
  }
}

TEST_P(MegaQueryKey, BackwardMatchesFloat64WithAnyNumberOfThreads) {
  Stream plain(1, Tier::plain);
  for (const Index width : {1, 17, 128}) {
    const Index rows = 300;
    const Inputs in = inputs(rows, width);
    const Host dq = random(rows, 2 * width, dtype(), 5), dk = random(rows, 2 * width, dtype(), 6);
    const Gradients found = backward(stream(), dtype(), in, dq, dk);
    const Gradients exact64 = backward(plain, DType::f64, in, dq, dk);
    // Both products that meet there have about twice the rms of what they leave.
    expect_close(found.dz, exact64.dz, dtype(), Law{.terms = kOperations, .rms = 2});
    expect_close(found.dgamma, exact64.dgamma, exact(), rows);
    expect_close(found.dbeta, exact64.dbeta, exact(), rows);
    expect_close(found.dbias, exact64.dbias, exact(), rows);
    for (const int threads : {1, 3}) {
      Stream other = GetParam().stream(threads);
      const Gradients again = backward(other, dtype(), in, dq, dk);
      expect_same(again.dgamma, found.dgamma);
      expect_same(again.dbeta, found.dbeta);
      expect_same(again.dbias, found.dbias);
    }
  }
}

TEST_P(MegaQueryKey, RefusesShapesThatDoNotFit) {
  const Inputs in = inputs(3, 4);
  const op::MegaQueryKey good{.q = empty(3, 8),
                              .k = empty(3, 8),
                              .z = upload(in.z),
                              .gamma = upload(in.gamma, exact()),
                              .beta = upload(in.beta, exact()),
                              .bias = upload(in.bias, exact()),
                              .scale = kScale};
  EXPECT_NO_THROW(run(stream(), good));
  op::MegaQueryKey bad = good;
  bad.q = empty(3, 4);
  EXPECT_THROW(run(stream(), bad), Error);
  bad = good;
  bad.beta = bad.gamma;
  EXPECT_THROW(run(stream(), bad), Error);
  bad = good;
  bad.scale = 0;
  EXPECT_THROW(run(stream(), bad), Error);
}

class MegaGate : public KernelTest {};
SAMBA_KERNEL_TEST(MegaGate);

TEST_P(MegaGate, MatchesTheDefinition) {
  for (const Index width : {1, 31, 2000}) {
    const Host u = random(9, width, dtype(), 1, 2), h = random(9, width, dtype(), 2);
    const Host hx = random(9, width, dtype(), 3), x = random(9, width, dtype(), 4);
    Host expected(9, width);
    for (std::size_t i = 0; i < x.values.size(); ++i)
      expected.values[i] =
          sigmoid(u.values[i]) * (reference::silu(h.values[i] + hx.values[i]) - x.values[i]);
    const View y = empty(9, width, dtype(), 3);
    run(stream(),
        op::MegaGate{.y = y, .u = upload(u), .h = upload(h), .hx = upload(hx), .x = upload(x)});
    expect_close(host(y), expected, dtype(), kOperations);
  }
}

TEST_P(MegaGate, BackwardMatchesFloat64) {
  Stream plain(1, Tier::plain);
  for (const Index width : {37, 64}) {
    const Host u = random(9, width, dtype(), 1, 2), h = random(9, width, dtype(), 2);
    const Host hx = random(9, width, dtype(), 3), x = random(9, width, dtype(), 4);
    const Host dy = random(9, width, dtype(), 5);
    const auto backward = [&](Stream& on, DType type) {
      const Index gap = width == 37 ? 2 : 0;
      const View du = empty(9, width, type), dh = empty(9, width, type, gap);
      const View dx = empty(9, width, exact_of(type));
      run(on, op::MegaGateBackward{.du = du,
                                   .dh = dh,
                                   .dx = dx,
                                   .dy = upload(dy, type),
                                   .u = upload(u, type),
                                   .h = upload(h, type, gap),
                                   .hx = upload(hx, type),
                                   .x = upload(x, type)});
      return std::tuple{host(du), host(dh), host(dx)};
    };
    const auto [du, dh, dx] = backward(stream(), dtype());
    const auto [du64, dh64, dx64] = backward(plain, DType::f64);
    expect_close(du, du64, dtype(), kOperations);
    expect_close(dh, dh64, dtype(), kOperations);
    expect_close(dx, dx64, exact(), kOperations);
  }
}

void set(View v, const Host& values) {
  for (Index r = 0; r < v.rows; ++r)
    for (Index c = 0; c < v.cols; ++c) v.row<double>(r)[c] = values(r, c);
}

TEST(MegaGradient, MatchesFiniteDifferences) {
  Stream plain(1, Tier::plain);
  const auto filled = [&](Index rows, Index cols, int seed) {
    Matrix x(plain, DType::f64, rows, cols);
    set(x, random(rows, cols, DType::f64, seed));
    return x;
  };
  const auto zero = [&](Index rows, Index cols) {
    Matrix x(plain, DType::f64, rows, cols);
    fill(x, 0);
    return x;
  };
  const Matrix z = filled(4, 3, 1), gamma = filled(2, 3, 2), beta = filled(1, 3, 3),
               bias = filled(2, 3, 4);
  const Matrix dq = filled(4, 6, 5), dk = filled(4, 6, 6), q = zero(4, 6), k = zero(4, 6);
  const Matrix dz = zero(4, 3), dgamma = zero(2, 3), dbeta = zero(1, 3), dbias = zero(2, 3);
  run(plain, op::MegaQueryKeyBackward{.dz = dz,
                                      .dgamma = dgamma,
                                      .dbeta = dbeta,
                                      .dbias = dbias,
                                      .dq = dq,
                                      .dk = dk,
                                      .z = z,
                                      .gamma = gamma,
                                      .scale = kScale});
  const auto loss = [&] {
    run(plain,
        op::MegaQueryKey{
            .q = q, .k = k, .z = z, .gamma = gamma, .beta = beta, .bias = bias, .scale = kScale});
    return dot(host(dq), host(q)) + dot(host(dk), host(k));
  };
  expect_gradient(z, host(dz), loss);
  expect_gradient(gamma, host(dgamma), loss);
  expect_gradient(beta, host(dbeta), loss);
  expect_gradient(bias, host(dbias), loss);

  const Matrix u = filled(4, 3, 7), h = filled(4, 3, 8), hx = filled(4, 3, 9), x = filled(4, 3, 10);
  const Matrix dy = filled(4, 3, 11), y = zero(4, 3);
  const Matrix du = zero(4, 3), dh = zero(4, 3), dx = zero(4, 3);
  run(plain, op::MegaGateBackward{
                 .du = du, .dh = dh, .dx = dx, .dy = dy, .u = u, .h = h, .hx = hx, .x = x});
  const auto gate = [&] {
    run(plain, op::MegaGate{.y = y, .u = u, .h = h, .hx = hx, .x = x});
    return dot(host(dy), host(y));
  };
  expect_gradient(u, host(du), gate);
  expect_gradient(h, host(dh), gate);
  expect_gradient(hx, host(dh), gate);
  expect_gradient(x, host(dx), gate);
}

}  // namespace
}  // namespace samba::test
