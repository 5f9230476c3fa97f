#include "core/rng.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

namespace samba::test {
namespace {

using Words = std::array<std::uint32_t, 4>;

TEST(Philox, GivesThePublishedAnswers) {
  // The known answers that the authors ship with their library Random123.
  constexpr std::uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Rng, UsesAllBitsOfSeedStreamIndexAndAttempt) {
  const Rng rng{0x299f31d0a4093822, 0x13198a2e};
  EXPECT_EQ(rng.words(0x85a308d3243f6a88, 0x03707344),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
  EXPECT_EQ(Rng{}.bits(0), 0xe169c58d6627e8d5);
}

TEST(Rng, UniformNumbersFillTheUnitInterval) {
  constexpr int kCount = 100000, kBins = 100;
  const Rng rng{7, 3};
  std::vector<double> bins(kBins);
  for (std::uint64_t i = 0; i < kCount; ++i) {
    const double x = rng.uniform(i);
    ASSERT_GE(x, 0);
    ASSERT_LT(x, 1);
    ++bins[static_cast<std::size_t>(x * kBins)];
  }
  // Chi-square with 99 degrees of freedom: mean 99, deviation sqrt(198) = 14.
  double chi_square = 0;
  for (const double bin : bins)
    chi_square += std::pow(bin - 1.0 * kCount / kBins, 2) * kBins / kCount;
  EXPECT_NEAR(chi_square, 99, 4 * 14);
}

TEST(Rng, BelowIsTheUpperHalfOfTheProduct) {
  const Rng rng{1, 2};
  for (std::uint64_t i = 0; i < 1000; ++i)
    for (const std::uint64_t bound : {std::uint64_t{1}, std::uint64_t{10},
                                      std::uint64_t{0x123456789abcdef0}, ~std::uint64_t{0}}) {
      __extension__ using Wide = unsigned __int128;
      EXPECT_EQ(rng.below(bound, i), static_cast<std::uint64_t>(Wide{rng.bits(i)} * bound >> 64));
    }
}

TEST(Rng, NormalNumbersFollowTheDistribution) {
  constexpr int kCount = 200000;
  const Rng rng{11, 5};
  std::vector<double> x(kCount);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = rng.normal(i);
  double sum = 0, squares = 0, fourths = 0;
  for (const double value : x) {
    sum += value;
    squares += value * value;
    fourths += value * value * value * value;
  }
  // Four standard errors each: the variances of x, x^2 and x^4 are 1, 2 and 96.
  const double error = 4 / std::sqrt(kCount);
  EXPECT_NEAR(sum / kCount, 0, error);
  EXPECT_NEAR(squares / kCount, 1, error * std::sqrt(2));
  EXPECT_NEAR(fourths / kCount, 3, error * std::sqrt(96));
  // Kolmogorov and Smirnov: the distance exceeds 1.95 / sqrt(count) once in a thousand times.
  std::sort(x.begin(), x.end());
  double distance = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double below = std::erfc(-x[i] / std::sqrt(2)) / 2;
    distance = std::max(distance, std::abs(below - (static_cast<double>(i) + 0.5) / kCount));
  }
  EXPECT_LT(distance, 1.95 / std::sqrt(kCount));
}

TEST(Rng, NormalFollowsThePolarMethod) {
  const auto symmetric = [](std::uint32_t low, std::uint32_t high) {
    return 2 * (static_cast<double>((std::uint64_t{high} << 32 | low) >> 11) * 0x1p-53) - 1;
  };
  const Rng rng{3, 4};
  for (std::uint64_t i = 0; i < 1000; ++i) {
    double expected = 0;
    for (std::uint32_t attempt = 0; expected == 0; ++attempt) {
      const Words w = rng.words(i, attempt);
      const double u = symmetric(w[0], w[1]), s = u * u + std::pow(symmetric(w[2], w[3]), 2);
      if (s < 1) expected = u * std::sqrt(-2 * std::log(s) / s);
    }
    // The logarithm is our own, a few units in the last place from the library's.
    EXPECT_NEAR(rng.normal(i), expected, 0x1p-50 * std::abs(expected));
  }
}

TEST(Rng, NormalNumbersHaveTheSameBitsOnEveryMachine) {
  const Rng rng{2024, 1};
  std::uint64_t hash = 0;
  for (std::uint64_t i = 0; i < 10000; ++i)
    hash = hash * 0x100000001b3 + std::bit_cast<std::uint64_t>(rng.normal(i));
  // Computed with an independent transcription in another language.
  EXPECT_EQ(hash, 0x318d7e980234d4fe);
}

TEST(Rng, StreamsAndSeedsAreUnrelated) {
  constexpr int kCount = 10000;
  const Rng a{1, 1}, b{1, 2}, c{2, 1};
  double ab = 0, ac = 0, neighbours = 0;
  for (std::uint64_t i = 0; i < kCount; ++i) {
    ab += a.normal(i) * b.normal(i);
    ac += a.normal(i) * c.normal(i);
    neighbours += a.normal(i) * a.normal(i + 1);
  }
  // Products of independent normal numbers have variance 1.
  const double bound = 4 * std::sqrt(kCount);
  EXPECT_NEAR(ab, 0, bound);
  EXPECT_NEAR(ac, 0, bound);
  EXPECT_NEAR(neighbours, 0, bound);
}

}  // namespace
}  // namespace samba::test
