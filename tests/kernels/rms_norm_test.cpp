#include "kernels/rms_norm.h"

#include <cmath>

#include "core/error.h"
#include "kernels/run.h"
#include "support/gradient.h"
#include "support/kernel_test.h"
#include "support/reference.h"

namespace samba::test {
namespace {

constexpr double kEps = 1e-5;

class RmsNorm : public KernelTest {};
SAMBA_KERNEL_TEST(RmsNorm);

Host sum_of(const Host& a, const Host& b) {
  Host sum = a;
  for (std::size_t i = 0; i < sum.values.size(); ++i) sum.values[i] += b.values[i];
  return sum;
}

TEST_P(RmsNorm, MatchesTheDefinition) {
  for (const Index width : {1, 31, 128, 1537, 2048, 9000}) {
    const Host x = random(7, width, exact(), 1, 3), w = random(1, width, exact(), 2);
    const View y = empty(7, width);
    run(stream(),
        op::RmsNorm{.y = y, .x = upload(x, exact()), .w = upload(w, exact()), .eps = kEps});
    expect_close(host(y), reference::rms_norm(x, w, kEps), dtype(), width);
  }
}

TEST_P(RmsNorm, AddsTheLayersOutputToTheStream) {
  constexpr Index kWidth = 45;
  const Host x = random(5, kWidth, exact(), 1), add = random(5, kWidth, dtype(), 2);
  const Host w = random(1, kWidth, exact(), 3), sum = sum_of(x, add);
  for (const bool in_place : {false, true}) {
    const View y = empty(5, kWidth, dtype(), 3), scale = empty(5, 1, exact());
    const View x_view = upload(x, exact(), 1);
    const View sum_view = in_place ? x_view : empty(5, kWidth, exact(), 7);
    run(stream(), op::RmsNorm{.y = y,
                              .sum = sum_view,
                              .scale = scale,
                              .x = x_view,
                              .add = upload(add, dtype(), 5),
                              .w = upload(w, exact()),
                              .eps = kEps});
    expect_close(host(sum_view), sum, exact(), 1);
    expect_close(host(y), reference::rms_norm(sum, w, kEps), dtype(), kWidth);
    Host expected(5, 1);
    for (Index n = 0; n < 5; ++n) {
      double squares = 0;
      for (Index i = 0; i < kWidth; ++i) squares += sum(n, i) * sum(n, i);
      expected(n, 0) = 1 / std::sqrt(squares / kWidth + kEps);
    }
    expect_close(host(scale), expected, exact(), kWidth);
  }
}

TEST_P(RmsNorm, CopiesTheStreamWhereNothingIsAdded) {
  const Host x = random(3, 19, exact(), 1);
  const View sum = empty(3, 19, exact());
  run(stream(), op::RmsNorm{.y = empty(3, 19),
                            .sum = sum,
                            .x = upload(x, exact()),
                            .w = upload(random(1, 19, exact(), 2), exact()),
                            .eps = kEps});
  expect_same(host(sum), x);
}

TEST_P(RmsNorm, TakesARowOfZeros) {
  const View y = empty(1, 9);
  run(stream(), op::RmsNorm{.y = y,
                            .x = zeros(1, 9, exact()),
                            .w = upload(random(1, 9, exact(), 1), exact()),
                            .eps = kEps});
  expect_close(host(y), Host(1, 9), dtype(), 9);
}

TEST_P(RmsNorm, ARowsBitsDependOnNothingButTheRow) {
  constexpr Index kWidth = 101;
  const Host row = random(1, kWidth, exact(), 1);
  const View w = upload(random(1, kWidth, exact(), 2), exact());
  // With odd strides every row starts at another address modulo a vector's size.
  Host x(40, kWidth);
  for (std::size_t i = 0; i < x.values.size(); ++i)
    x.values[i] = row.values[i % static_cast<std::size_t>(kWidth)];
  const View y = empty(40, kWidth, dtype(), 2), alone = empty(1, kWidth);
  run(stream(), op::RmsNorm{.y = y, .x = upload(x, exact()), .w = w, .eps = kEps});
  run(stream(), op::RmsNorm{.y = alone, .x = upload(row, exact()), .w = w, .eps = kEps});
  for (Index n = 0; n < 40; ++n) expect_same(host(y.block(n, 1)), host(alone));
}

TEST_P(RmsNorm, CanBeMadeAgainFromTheNormalRows) {
  for (const Index width : {1, 45, 128}) {
    const Host x = random(5, width, exact(), 1), w = random(1, width, exact(), 3);
    const View y = empty(5, width, dtype(), 3), normal = empty(5, width, dtype(), 1);
    const View plain = empty(5, width), again = empty(5, width, dtype(), 2);
    const View weight = upload(w, exact());
    run(stream(),
        op::RmsNorm{.y = y, .normal = normal, .x = upload(x, exact()), .w = weight, .eps = kEps});
    run(stream(), op::RmsNorm{.y = plain, .x = upload(x, exact()), .w = weight, .eps = kEps});
    run(stream(), op::ScaleColumns{.y = again, .x = normal, .w = weight});
    expect_same(host(again), host(y));
    expect_same(host(plain), host(y));
    Host ones(1, width);
    ones.values.assign(ones.values.size(), 1);
    expect_close(host(normal), reference::rms_norm(x, ones, kEps), dtype(), width);
  }
}

/// The rms of dy * w / rms(x), from which dx takes away its part along x: all of it at width 1.
double rms_before_projection(const Host& x, const Host& w, const Host& dy) {
  Host ones(1, x.cols);
  ones.values.assign(ones.values.size(), 1);
  const Host normal = reference::rms_norm(x, ones, kEps);
  double squares = 0;
  for (Index n = 0; n < x.rows; ++n)
    for (Index i = 0; i < x.cols; ++i)
      squares += std::pow(dy(n, i) * w(0, i) * normal(n, i) / x(n, i), 2);
  return std::sqrt(squares / static_cast<double>(x.rows * x.cols));
}

struct Gradients {
  Host dx, dw, rounded;
};

/// RmsNormBackward on gradients that already hold dx0 and dw0.
Gradients backward(Stream& stream, DType dtype, const Host& x, const Host& w, const Host& dy,
                   const Host& dx0, const Host& dw0) {
  const DType exact = exact_of(dtype);
  const auto matrix = [&](const Host& values, DType type) {
    Matrix m(stream, type, values.rows, values.cols);
    auto* data = reinterpret_cast<std::byte*>(const_cast<double*>(values.values.data()));
    copy(m, View{data, values.rows, values.cols, values.cols, DType::f64});
    return m;
  };
  const Matrix xm = matrix(x, exact), wm = matrix(w, exact), dym = matrix(dy, dtype);
  const Matrix dx = matrix(dx0, exact), dw = matrix(dw0, exact);
  const Matrix y(stream, dtype, x.rows, x.cols), scale(stream, exact, x.rows, 1);
  const Matrix normal(stream, dtype, x.rows, x.cols), rounded(stream, dtype, x.rows, x.cols);
  run(stream, op::RmsNorm{.y = y, .normal = normal, .scale = scale, .x = xm, .w = wm, .eps = kEps});
  run(stream, op::RmsNormBackward{.dx = dx,
                                  .dw = dw,
                                  .rounded = rounded,
                                  .dy = dym,
                                  .normal = normal,
                                  .w = wm,
                                  .scale = scale});
  return {host(dx), host(dw), host(rounded)};
}

TEST_P(RmsNorm, BackwardMatchesFloat64) {
  Stream plain(1, Tier::plain);
  // 200 rows are several blocks of the sum over rows, the last one cut short, and 1100 several rows
  // for each block of a GPU; 5000 columns are more than those keep in registers.
  for (const auto& [rows, width] :
       {std::pair<Index, Index>{1, 1}, {3, 37}, {200, 130}, {1100, 96}, {9, 5000}}) {
    // A processor's kernels may add 5000 squares one after the other, whose roundings do not
    // cancel.
    if (width == 5000 && !GetParam().cuda) continue;
    const Host x = random(rows, width, exact(), 1, 2), w = random(1, width, exact(), 2);
    const Host dy = random(rows, width, dtype(), 3);
    const Host dx0 = random(rows, width, exact(), 4), dw0 = random(1, width, exact(), 5);
    const Gradients found = backward(stream(), dtype(), x, w, dy, dx0, dw0);
    const Gradients expected = backward(plain, DType::f64, x, w, dy, dx0, dw0);
    // 1 is the rms of dx0. The normal rows were rounded.
    const double before = 1 + rms_before_projection(x, w, dy);
    expect_close(found.dx, expected.dx, exact(),
                 Law{.terms = width, .rounded = dtype(), .rms = before});
    expect_close(found.dw, expected.dw, exact(), Law{.terms = rows, .rounded = dtype()});
    expect_close(found.rounded, expected.dx, dtype(),
                 Law{.terms = width, .rounded = dtype(), .rms = before});
  }
}

TEST_P(RmsNorm, BackwardGivesTheSameBitsOnAnyNumberOfThreads) {
  Stream one = GetParam().stream(1);
  const Host x = random(300, 70, exact(), 1), w = random(1, 70, exact(), 2);
  const Host dy = random(300, 70, dtype(), 3), dx0(300, 70), dw0(1, 70);
  const Gradients two = backward(stream(), dtype(), x, w, dy, dx0, dw0);
  const Gradients alone = backward(one, dtype(), x, w, dy, dx0, dw0);
  expect_same(two.dx, alone.dx);
  expect_same(two.dw, alone.dw);
}

class RmsNormBackward : public KernelTest {};
INSTANTIATE_TEST_SUITE_P(Plain, RmsNormBackward, testing::Values(Target{Tier::plain, DType::f64}),
                         name_of_target);

TEST_P(RmsNormBackward, MatchesFiniteDifferences) {
  const View x = upload(random(4, 7, DType::f64, 1)), w = upload(random(1, 7, DType::f64, 2));
  const View dy = upload(random(4, 7, DType::f64, 3));
  const View y = empty(4, 7), normal = empty(4, 7), scale = empty(4, 1);
  const View dx = zeros(4, 7, DType::f64), dw = zeros(1, 7, DType::f64);
  const auto loss = [&] {
    run(stream(),
        op::RmsNorm{.y = y, .normal = normal, .scale = scale, .x = x, .w = w, .eps = 0.1});
    return dot(host(dy), host(y));
  };
  loss();
  run(stream(),
      op::RmsNormBackward{.dx = dx, .dw = dw, .dy = dy, .normal = normal, .w = w, .scale = scale});
  expect_gradient(x, host(dx), loss);
  expect_gradient(w, host(dw), loss);
}

TEST_P(RmsNormBackward, RefusesShapesThatDisagree) {
  const View y = empty(4, 7), row = empty(1, 7), narrow = empty(1, 6);
  const auto message = [&](const auto& op) {
    try {
      run(stream(), op);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("nothing was thrown");
  };
  EXPECT_EQ(message(op::RmsNorm{.y = y, .x = y, .w = narrow, .eps = kEps}),
            "rms_norm: w: expected f64[1 x 7], found f64[1 x 6]");
  EXPECT_EQ(message(op::RmsNorm{.y = y, .x = y, .add = y, .w = row, .eps = kEps}),
            "rms_norm: sum: expected f64[4 x 7] beside add, found nothing");
  EXPECT_EQ(message(op::RmsNorm{.y = ids({1}), .x = y, .w = row, .eps = kEps}),
            "rms_norm: y: expected f64, f32 or bf16, found i32[1 x 1]");
  EXPECT_EQ(message(op::RmsNormBackward{
                .dx = y, .dw = row, .dy = y, .normal = y, .w = row, .scale = row}),
            "rms_norm_backward: scale: expected f64[4 x 1], found f64[1 x 7]");
}

}  // namespace
}  // namespace samba::test
