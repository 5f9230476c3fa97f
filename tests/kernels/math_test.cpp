#include "kernels/cpu/math.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

namespace samba::test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// Calls f with some of the floats from `low` to `high`, both of one sign, evenly spread over their
/// bits.
template <class F>
void for_floats(float low, float high, F&& f) {
  auto first = std::bit_cast<std::uint32_t>(low), last = std::bit_cast<std::uint32_t>(high);
  if (first > last) std::swap(first, last);
  for (std::uint32_t bits = first; bits <= last; bits += 1009) f(std::bit_cast<float>(bits));
  f(high);
}

TEST(FastExp, IsWithinItsErrorOfTheExactValue) {
  double worst = 0;
  const auto measure = [&](float x) {
    const double exact = std::exp(static_cast<double>(x));
    worst = std::max(worst, std::abs(fast_exp(x) - exact) / exact);
  };
  for_floats(0, 88, measure);
  for_floats(-87, -0.0f, measure);
  EXPECT_LT(worst, 3e-7);
}

TEST(FastExp, IsExactAtZeroAndHasItsLimits) {
  EXPECT_EQ(fast_exp(0.0f), 1);
  EXPECT_EQ(fast_exp(-0.0f), 1);
  EXPECT_EQ(fast_exp(-88.0f), 0);
  EXPECT_EQ(fast_exp(-kInfinity), 0);
  EXPECT_EQ(fast_exp(89.0f), kInfinity);
  EXPECT_EQ(fast_exp(kInfinity), kInfinity);
  EXPECT_TRUE(std::isnan(fast_exp(std::numeric_limits<float>::quiet_NaN())));
  // Up to the last float whose exponential is one.
  EXPECT_LT(fast_exp(88.72283f), kInfinity);
  EXPECT_GT(fast_exp(-87.33654f), 0);
}

TEST(Sigmoid, KeepsItsRangeAndItsLimits) {
  for_floats(0, 100, [](float x) {
    ASSERT_LE(sigmoid(x), 1);
    ASSERT_GE(sigmoid(-x), 0);
  });
  EXPECT_EQ(sigmoid(0.0f), 0.5f);
  EXPECT_EQ(sigmoid(100.0f), 1);
  EXPECT_EQ(sigmoid(-100.0f), 0);
  EXPECT_EQ(silu(-100.0f), 0);
  EXPECT_EQ(silu(100.0f), 100);
  EXPECT_EQ(silu_slope(100.0f), 1);
  EXPECT_EQ(silu_slope(-100.0f), 0);
}

}  // namespace
}  // namespace samba::test
