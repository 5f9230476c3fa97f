#include "kernels/adamw.h"

#include <cmath>
#include <limits>
#include <vector>

#include "core/error.h"
#include "kernels/run.h"
#include "support/kernel_test.h"

namespace samba::test {
namespace {

constexpr double kRate = 0.02, kBeta1 = 0.9, kBeta2 = 0.95, kDecay = 0.1, kEps = 1e-8;

class AdamW : public KernelTest {
 protected:
  View sums_of(const std::vector<double>& values) {
    Host sums(1, static_cast<Index>(values.size()));
    sums.values = values;
    return upload(sums, DType::f64);
  }
  static op::AdamW step_of(View w, View m, View v, ConstView gradient) {
    return {.w = w,
            .m = m,
            .v = v,
            .gradient = gradient,
            .lr = kRate,
            .beta1 = kBeta1,
            .beta2 = kBeta2,
            .eps = kEps,
            .weight_decay = kDecay,
            .step = 1};
  }
};
SAMBA_KERNEL_TEST(AdamW);

struct State {
  Host w, m, v;
};

/// Loshchilov & Hutter 2019, algorithm 2, with schedule multiplier lr.
void step_by_definition(State& s, const Host& gradient, double scale, double eps, int step) {
  for (std::size_t i = 0; i < gradient.values.size(); ++i) {
    const double g = scale * gradient.values[i];
    double &w = s.w.values[i], &m = s.m.values[i], &v = s.v.values[i];
    m = kBeta1 * m + (1 - kBeta1) * g;
    v = kBeta2 * v + (1 - kBeta2) * g * g;
    const double m_hat = m / (1 - std::pow(kBeta1, step)), v_hat = v / (1 - std::pow(kBeta2, step));
    w -= kRate * (m_hat / (std::sqrt(v_hat) + eps) + kDecay * w);
  }
}

TEST_P(AdamW, FollowsTheDefinitionOverSeveralSteps) {
  constexpr double kLargeEps = 1e-3;
  constexpr int kSteps = 10;
  for (const Index count : {1, 37, 5000, 40001}) {
    State expected{random(1, count, exact(), 1), Host(1, count), Host(1, count)};
    const View w = upload(expected.w, exact());
    const View m = zeros(1, count, exact()), v = zeros(1, count, exact());
    const bool rounds = exact() == DType::f32;
    const View rounded = rounds ? empty(1, count, DType::bf16) : View{};
    for (int step = 1; step <= kSteps; ++step) {
      const Host gradient = random(1, count, exact(), 10 + step, 2);
      run(stream(), op::AdamW{.w = w,
                              .rounded = rounded,
                              .m = m,
                              .v = v,
                              .gradient = upload(gradient, exact()),
                              .lr = kRate,
                              .beta1 = kBeta1,
                              .beta2 = kBeta2,
                              .eps = kLargeEps,
                              .weight_decay = kDecay,
                              .sums = sums_of({4, 7}),
                              .clip = 1,
                              .step = step});
      step_by_definition(expected, gradient, 0.5, kLargeEps, step);
    }
    expect_close(host(m), expected.m, exact(), kSteps);
    expect_close(host(v), expected.v, exact(), kSteps);
    expect_close(host(w), expected.w, exact(), kSteps);
    if (!rounds) continue;
    Host bf16(1, count);
    for (Index i = 0; i < count; ++i) bf16(0, i) = static_cast<float>(Bf16(w.row<float>(0)[i]));
    expect_same(host(rounded), bf16);
  }
}

TEST_P(AdamW, DecaysWeightsWithoutGradientByTheRateAlone) {
  constexpr Index kCount = 100;
  const Host before = random(1, kCount, exact(), 1);
  const View w = upload(before, exact());
  const View m = zeros(1, kCount, exact()), v = zeros(1, kCount, exact());
  run(stream(), step_of(w, m, v, zeros(1, kCount, exact())));
  Host expected = before;
  for (double& value : expected.values) value *= 1 - kRate * kDecay;
  expect_close(host(w), expected, exact(), 1);
}

TEST_P(AdamW, GivesTheSameBitsOnAnyNumberOfThreads) {
  constexpr Index kCount = 50001;
  Stream one = GetParam().stream(1);
  const Host start = random(1, kCount, exact(), 1);
  const View gradient = upload(random(1, kCount, exact(), 2), exact());
  const auto stepped = [&](Stream& on) {
    const View w = upload(start, exact());
    const View m = zeros(1, kCount, exact()), v = zeros(1, kCount, exact());
    op::AdamW op = step_of(w, m, v, gradient);
    op.step = 3;
    run(on, op);
    return host(w);
  };
  expect_same(stepped(stream()), stepped(one));
}

TEST_P(AdamW, ScalesGradientsDownAndNeverUp) {
  constexpr Index kCount = 70;
  const Host gradient = random(1, kCount, exact(), 2);
  const View w = zeros(1, kCount, exact()), v = zeros(1, kCount, exact());
  const auto first_moment = [&](double squares, double clip) {
    const View m = zeros(1, kCount, exact());
    op::AdamW op = step_of(w, m, v, upload(gradient, exact()));
    op.sums = sums_of({squares});
    op.clip = clip;
    run(stream(), op);
    return host(m);
  };
  Host expected = gradient;
  for (double& value : expected.values) value *= 1 - kBeta1;
  expect_close(first_moment(9, 0), expected, exact(), 2);
  expect_close(first_moment(9, 3.5), expected, exact(), 2);
  for (double& value : expected.values) value *= 0.25;
  expect_close(first_moment(16, 1), expected, exact(), 2);
}

TEST_P(AdamW, TakesNoStepWhereASumIsNoNumber) {
  constexpr Index kCount = 70;
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const Host start = random(1, kCount, exact(), 1);
  const View gradient = upload(random(1, kCount, exact(), 2), exact());
  for (const std::vector<double>& sums : {std::vector<double>{std::nan("")},
                                          {kInfinity},
                                          {1, kInfinity},
                                          {1, -kInfinity},
                                          {1, 2, std::nan("")}}) {
    const View w = upload(start, exact()), m = upload(start, exact()), v = upload(start, exact());
    op::AdamW op = step_of(w, m, v, gradient);
    op.sums = sums_of(sums);
    op.clip = 1;
    run(stream(), op);
    for (const View& view : {w, m, v}) expect_same(host(view), start);
  }
}

TEST_P(AdamW, RefusesMomentsOfAnotherShapeAndStepZero) {
  const View w = empty(1, 8, exact()), m = empty(1, 7, exact());
  const auto message = [&](View moment, Index step) {
    try {
      run(stream(), op::AdamW{.w = w,
                              .m = moment,
                              .v = w,
                              .gradient = w,
                              .lr = 0,
                              .beta1 = 0,
                              .beta2 = 0,
                              .eps = 0,
                              .weight_decay = 0,
                              .step = step});
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("nothing was thrown");
  };
  const std::string type = name_of(exact());
  EXPECT_EQ(message(m, 1), "adamw: m: expected " + type + "[1 x 8], found " + type + "[1 x 7]");
  EXPECT_EQ(message(w, 0), "adamw: step: expected 1 or more, found 0");
}

class SumOfSquares : public KernelTest {};
SAMBA_KERNEL_TEST(SumOfSquares);

TEST_P(SumOfSquares, AddsInDouble) {
  // 200001 elements are several blocks, the last one cut short.
  for (const auto& [rows, cols] :
       {std::pair<Index, Index>{1, 1}, {3, 1001}, {1, 200001}, {5, 40000}}) {
    const Host x = random(rows, cols, dtype(), 1);
    const View sum = zeros(1, 1, DType::f64);
    fill(sum, 5);
    run(stream(), op::SumOfSquares{.sum = sum, .x = upload(x, dtype(), cols % 4 == 0 ? 0 : 3)});
    Host expected(1, 1);
    expected(0, 0) = 5;
    for (const double value : x.values) expected(0, 0) += value * value;
    expect_close(host(sum), expected, DType::f64, rows * cols);
  }
}

TEST_P(SumOfSquares, GivesTheSameBitsOnAnyNumberOfThreads) {
  Stream one = GetParam().stream(1);
  const View x = upload(random(3, 100001, dtype(), 1));
  const View two_threads = zeros(1, 1, DType::f64), one_thread = zeros(1, 1, DType::f64);
  run(stream(), op::SumOfSquares{.sum = two_threads, .x = x});
  run(one, op::SumOfSquares{.sum = one_thread, .x = x});
  expect_same(host(two_threads), host(one_thread));
}

}  // namespace
}  // namespace samba::test
