#include "kernels/cross_entropy.h"

#include <cmath>
#include <limits>

#include "core/error.h"
#include "kernels/run.h"
#include "support/gradient.h"
#include "support/kernel_test.h"
#include "support/reference.h"

namespace samba::test {
namespace {

class CrossEntropy : public KernelTest {};
SAMBA_KERNEL_TEST(CrossEntropy);

/// scale * (softmax - onehot), rows of target -1 zero.
Host gradient_of(const Host& logits, const std::vector<int>& targets, double scale) {
  Host d(logits.rows, logits.cols);
  for (Index n = 0; n < logits.rows; ++n) {
    const int target = targets[static_cast<std::size_t>(n)];
    if (target < 0) continue;
    for (Index v = 0; v < logits.cols; ++v) {
      double sum = 0;
      for (Index u = 0; u < logits.cols; ++u) sum += std::exp(logits(n, u) - logits(n, v));
      d(n, v) = scale * (1 / sum - (v == target ? 1 : 0));
    }
  }
  return d;
}

/// Compares gradients as shares of what is expected: each carries the relative error of its row's
/// sum. The target's, for which a probability is taken from 1, are compared as shares of scale.
void expect_close_shares(const Host& actual, const Host& expected, const std::vector<int>& targets,
                         double scale, DType dtype) {
  Host shares(expected.rows, expected.cols), ones = shares;
  ones.values.assign(ones.values.size(), 1);
  for (Index n = 0; n < expected.rows; ++n)
    for (Index v = 0; v < expected.cols; ++v) {
      const int target = targets[static_cast<std::size_t>(n)];
      const double whole = target < 0 || target == v ? scale : expected(n, v);
      shares(n, v) = 1 + (actual(n, v) - expected(n, v)) / whole;
    }
  expect_close(shares, ones, dtype, expected.cols);
}

TEST_P(CrossEntropy, MatchesTheDefinition) {
  for (const Index vocabulary : {1, 2, 37, 1000}) {
    const int last = static_cast<int>(vocabulary - 1);
    const std::vector<int> targets = {last, 0, -1, last / 2, last};
    const Host logits = random(5, vocabulary, exact(), 1, 4);
    const View loss = empty(5, 1, exact()), dlogits = empty(5, vocabulary, dtype(), 3);
    run(stream(), op::CrossEntropy{.loss = loss,
                                   .dlogits = dlogits,
                                   .logits = upload(logits, exact(), 1),
                                   .targets = ids(targets),
                                   .scale = 0.25});
    expect_close(host(loss), reference::cross_entropy(logits, targets), exact(), vocabulary);
    expect_close_shares(host(dlogits), gradient_of(logits, targets, 0.25), targets, 0.25, dtype());
  }
}

TEST_P(CrossEntropy, GivesTheLossAloneAndTheGradientInPlace) {
  const std::vector<int> targets = {5, -1, 40};
  const Host logits = random(3, 41, exact(), 1, 4);
  const View alone = empty(3, 1, exact()), loss = empty(3, 1, exact());
  const View apart = empty(3, 41, exact()), in_place = upload(logits, exact());
  run(stream(), op::CrossEntropy{.loss = alone, .logits = in_place, .targets = ids(targets)});
  run(stream(), op::CrossEntropy{
                    .loss = loss, .dlogits = apart, .logits = in_place, .targets = ids(targets)});
  expect_same(host(loss), host(alone));
  run(stream(),
      op::CrossEntropy{
          .loss = loss, .dlogits = in_place, .logits = in_place, .targets = ids(targets)});
  expect_same(host(loss), host(alone));
  expect_same(host(in_place), host(apart));
}

TEST_P(CrossEntropy, SurvivesLogitsOfAnySize) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  Host logits(3, 20);
  for (Index v = 0; v < 20; ++v) {
    logits(0, v) = v == 4 ? 1e30 : -1e30;
    logits(1, v) = v < 2 ? 7 : -kInfinity;  // a mask
    logits(2, v) = -5000;
  }
  const View loss = empty(3, 1, exact()), dlogits = empty(3, 20);
  run(stream(), op::CrossEntropy{.loss = loss,
                                 .dlogits = dlogits,
                                 .logits = upload(logits, exact()),
                                 .targets = ids({4, 1, 19})});
  Host expected(3, 1);
  expected(1, 0) = std::log(2);
  expected(2, 0) = std::log(20);
  expect_close(host(loss), expected, exact(), 20);
  for (Index v = 0; v < 20; ++v) {
    EXPECT_EQ(host(dlogits)(0, v), 0);
    EXPECT_EQ(host(dlogits)(1, v), v == 0 ? 0.5 : v == 1 ? -0.5 : 0);
  }
}

TEST_P(CrossEntropy, LetsNoNanPass) {
  Host logits = random(1, 20, exact(), 1);
  logits(0, 7) = std::numeric_limits<double>::quiet_NaN();
  const View loss = empty(1, 1, exact());
  run(stream(),
      op::CrossEntropy{.loss = loss, .logits = upload(logits, exact()), .targets = ids({3})});
  EXPECT_TRUE(std::isnan(host(loss)(0, 0)));
}

TEST_P(CrossEntropy, ARowsBitsDependOnNothingButTheRow) {
  constexpr Index kWidth = 1003;
  const Host row = random(1, kWidth, exact(), 1);
  Host logits(40, kWidth);
  for (std::size_t i = 0; i < logits.values.size(); ++i)
    logits.values[i] = row.values[i % static_cast<std::size_t>(kWidth)];
  const View loss = empty(40, 1, exact()), dlogits = empty(40, kWidth);
  run(stream(), op::CrossEntropy{.loss = loss,
                                 .dlogits = dlogits,
                                 .logits = upload(logits, exact()),
                                 .targets = ids(std::vector<int>(40, 11))});
  for (Index n = 1; n < 40; ++n) {
    expect_same(host(loss.block(n, 1)), host(loss.block(0, 1)));
    expect_same(host(dlogits.block(n, 1)), host(dlogits.block(0, 1)));
  }
}

/// Vocabularies that a GPU's block keeps in registers, and more rows than it has blocks.
TEST_P(CrossEntropy, TakesLargeVocabularies) {
  SAMBA_SKIP_ON_SLOWER_TIERS();
  for (const Index vocabulary : {8192, 32000, 33000}) {
    const Index rows = vocabulary == 8192 ? 300 : 5;
    const Host logits = random(rows, vocabulary, exact(), 1, 4);
    std::vector<int> targets;
    for (Index n = 0; n < rows; ++n)
      targets.push_back(static_cast<int>(n % 4 == 2 ? -1 : n * 7919 % vocabulary));
    const View loss = empty(rows, 1, exact()), dlogits = empty(rows, vocabulary);
    run(stream(), op::CrossEntropy{.loss = loss,
                                   .dlogits = dlogits,
                                   .logits = upload(logits, exact()),
                                   .targets = ids(targets),
                                   .scale = 0.25});
    expect_close(host(loss), reference::cross_entropy(logits, targets), exact(), vocabulary);
    Host expected(rows, vocabulary);
    for (Index n = 0; n < rows; ++n) {
      const int target = targets[static_cast<std::size_t>(n)];
      if (target < 0) continue;
      double sum = 0;
      for (Index v = 0; v < vocabulary; ++v) sum += std::exp(logits(n, v));
      for (Index v = 0; v < vocabulary; ++v)
        expected(n, v) = 0.25 * (std::exp(logits(n, v)) / sum - (v == target ? 1 : 0));
    }
    expect_close_shares(host(dlogits), expected, targets, 0.25, dtype());
    if (dtype() != exact()) continue;
    const View in_place = upload(logits, exact());
    run(stream(), op::CrossEntropy{.loss = loss,
                                   .dlogits = in_place,
                                   .logits = in_place,
                                   .targets = ids(targets),
                                   .scale = 0.25});
    expect_same(host(in_place), host(dlogits));
  }
}

TEST_P(CrossEntropy, NamesTheFirstTargetThatIsNoColumn) {
  const View logits = empty(3, 20, exact()), loss = empty(3, 1, exact());
  const auto message = [&](const std::vector<int>& targets, View dlogits) {
    try {
      run(stream(),
          op::CrossEntropy{
              .loss = loss, .dlogits = dlogits, .logits = logits, .targets = ids(targets)});
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("nothing was thrown");
  };
  if (GetParam().cuda) {  // it cannot throw: such targets mark their rows
    for (const Index vocabulary : {20, 8192}) {
      const View marked = empty(3, 1, exact()), dlogits = empty(3, vocabulary);
      run(stream(), op::CrossEntropy{.loss = marked,
                                     .dlogits = dlogits,
                                     .logits = upload(random(3, vocabulary, exact(), 1), exact()),
                                     .targets = ids({3, static_cast<int>(vocabulary), -2})});
      for (Index n = 0; n < 3; ++n) {
        EXPECT_EQ(std::isnan(host(marked)(n, 0)), n > 0);
        EXPECT_EQ(std::isnan(host(dlogits)(n, 7)), n > 0);
      }
    }
  } else {
    EXPECT_EQ(message({19, 20, 21}, {}),
              "cross_entropy: targets: expected -1 or an id from 0 to 19, found 20 in row 1");
    EXPECT_EQ(message({19, -1, -2}, {}),
              "cross_entropy: targets: expected -1 or an id from 0 to 19, found -2 in row 2");
  }
  const bool f64 = exact() == DType::f64;
  EXPECT_EQ(message({0, 0, 0}, empty(3, 20, f64 ? DType::f32 : DType::f64)),
            std::string("cross_entropy: dlogits: expected ") +
                (f64 ? "f64 beside f64[3 x 20], found f32[3 x 20]"
                     : "f32 or bf16 beside f32[3 x 20], found f64[3 x 20]"));
}

class CrossEntropyGradient : public KernelTest {};
INSTANTIATE_TEST_SUITE_P(Plain, CrossEntropyGradient,
                         testing::Values(Target{Tier::plain, DType::f64}), name_of_target);

TEST_P(CrossEntropyGradient, MatchesFiniteDifferences) {
  const View logits = upload(random(4, 9, DType::f64, 1, 2)), targets = ids({8, -1, 0, 3});
  const View loss = empty(4, 1), dlogits = empty(4, 9);
  run(stream(),
      op::CrossEntropy{
          .loss = loss, .dlogits = dlogits, .logits = logits, .targets = targets, .scale = 3});
  const Host gradient = host(dlogits);
  expect_gradient(logits, gradient, [&] {
    run(stream(), op::CrossEntropy{.loss = loss, .logits = logits, .targets = targets});
    double sum = 0;
    for (const double value : host(loss).values) sum += 3 * value;
    return sum;
  });
}

}  // namespace
}  // namespace samba::test
