#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "support/kernel_test.h"
#include "support/reference.h"
#include "support/shared.h"
#include "support/small_layer.h"

namespace samba::test {
namespace {

constexpr Index kGroup = 3, kWindow = 8, kHeads = 2, kWidth = 8, kTokens = 37;
constexpr double kBase = 10000;

Json entry(bool extended) {
  Json layer = {{"type", "attention"}, {"heads", kHeads}};
  if (extended) layer.update({{"extend_group", kGroup}, {"extend_window", kWindow}});
  return layer;
}

double rotated_dot(const Host& q, Index i, double q_position, const Host& k, Index j,
                   double k_position, Index head) {
  const Index half = kWidth / 2;
  double dot = 0;
  for (Index c = 0; c < half; ++c) {
    const double angle =
        (q_position - k_position) * std::pow(kBase, -2.0 * static_cast<double>(c) / kWidth);
    const Index a = head * kWidth + c, b = a + half;
    dot += (q(i, a) * k(j, a) + q(i, b) * k(j, b)) * std::cos(angle) +
           (q(i, b) * k(j, a) - q(i, a) * k(j, b)) * -std::sin(angle);
  }
  return dot;
}

Host columns(const Host& x, Index first, Index count) {
  Host part(x.rows, count);
  for (Index r = 0; r < x.rows; ++r)
    for (Index c = 0; c < count; ++c) part(r, c) = x(r, first + c);
  return part;
}

/// Jin et al. 2024, section 3.2, as its definition says: one softmax over all keys.
Host expected_output(SmallLayer& layer, const Host& x) {
  const Index width = kHeads * kWidth;
  const Host qkv = reference::linear(x, host(layer.parameters()[0].value));
  const Host q = columns(qkv, 0, width), k = columns(qkv, width, width),
             v = columns(qkv, 2 * width, width);
  Host a(x.rows, width);
  for (Index i = 0; i < x.rows; ++i)
    for (Index h = 0; h < kHeads; ++h) {
      std::vector<double> scores;
      for (Index j = 0; j <= i; ++j) {
        const bool near = i - j < kWindow;
        const double p = static_cast<double>(near ? i : i / kGroup + kWindow - kWindow / kGroup);
        const double s = static_cast<double>(near ? j : j / kGroup);
        scores.push_back(rotated_dot(q, i, p, k, j, s, h) / std::sqrt(double{kWidth}));
      }
      double sum = 0;
      for (double& s : scores) sum += s = std::exp(s);
      for (Index j = 0; j <= i; ++j)
        for (Index c = 0; c < kWidth; ++c)
          a(i, h * kWidth + c) += scores[static_cast<std::size_t>(j)] / sum * v(j, h * kWidth + c);
    }
  return reference::linear(a, host(layer.parameters()[1].value));
}

class SelfExtend : public testing::TestWithParam<Target> {
 protected:
  void SetUp() override { SAMBA_SKIP_WITHOUT_GPU(GetParam()); }
  DType dtype() const { return GetParam().dtype; }
  SmallLayer make(bool extended) const { return SmallLayer(entry(extended), GetParam()); }
  Law law() const {
    return {.terms = kTokens * SmallLayer::kWidth, .rounded = dtype(), .roundings = 6};
  }
  const Host x_ = random(kTokens, SmallLayer::kWidth, DType::bf16, 1);
};
SAMBA_KERNEL_TEST(SelfExtend);

TEST_P(SelfExtend, IsOneSoftmaxOverNearAndDistantKeys) {
  SmallLayer layer = make(true);
  ASSERT_EQ(layer.parameters().size(), 2u);
  expect_close(layer.forward(x_, {{0, kTokens, 0}}), expected_output(layer, x_), dtype(), law());
}

TEST_P(SelfExtend, UpToTheWindowItIsTheAttentionItself) {
  SmallLayer extended = make(true), plain = make(false);
  Host x(kWindow, x_.cols);
  for (Index r = 0; r < kWindow; ++r)
    for (Index c = 0; c < x.cols; ++c) x(r, c) = x_(r, c);
  expect_same(extended.forward(x, {{0, kWindow, 0}}), plain.forward(x, {{0, kWindow, 0}}));
}

TEST_P(SelfExtend, CuttingASequenceChangesNothing) {
  SmallLayer layer = make(true);
  const Host whole = layer.forward(x_, {{0, kTokens, 0}});
  States states = layer.make_states(2, kTokens);
  Index first = 0;
  for (const Index piece : {3, 1, 9, 1, 1, 15, 7}) {
    Host part(piece, x_.cols), rest(piece, x_.cols);
    for (Index r = 0; r < piece; ++r)
      for (Index c = 0; c < x_.cols; ++c)
        part(r, c) = x_(first + r, c), rest(r, c) = whole(first + r, c);
    const Host y = layer.forward(part, {{0, piece, first, 1}}, &states);
    if (dtype() == DType::f64)
      expect_same(y, rest);
    else
      expect_close(y, rest, dtype(), law());
    first += piece;
  }
  ASSERT_EQ(first, kTokens);
}

TEST(SelfExtendKeys, AreRefusedWhereTheyMeanNothing) {
  const auto message = [](const char* keys) {
    return error_of(
        [&] { SmallLayer(parse_json(keys, "entry"), Target{Tier::plain, DType::f32}); });
  };
  EXPECT_NE(message(R"({"type": "attention", "heads": 2, "extend_group": 3})")
                .find("test: extend_window: expected 1 to"),
            std::string::npos);
  EXPECT_NE(message(R"({"type": "attention", "heads": 2, "window": 4, "extend_group": 3,
                        "extend_window": 8})")
                .find("test: extend_group: expected attention without a window, found one of 4"),
            std::string::npos);
  EXPECT_NE(message(R"({"type": "attention", "heads": 2, "rope": false, "extend_group": 3,
                        "extend_window": 8})")
                .find("test: extend_group: expected attention with rope"),
            std::string::npos);
  SmallLayer layer(entry(true), Target{Tier::plain, DType::f32});
  const Host x = random(4, SmallLayer::kWidth, DType::bf16, 1);
  EXPECT_NE(error_of([&] { layer.backward(x, {{0, 4, 0}}, x); }).find("inference only"),
            std::string::npos);
}

}  // namespace
}  // namespace samba::test
