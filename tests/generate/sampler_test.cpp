#include "generate/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <vector>

#include "core/rng.h"
#include "support/shared.h"

namespace samba::test {
namespace {

/// Probabilities by id after temperature, top-k and top-p, from the definition.
std::vector<double> probabilities(const std::vector<float>& logits, const Sampling& s) {
  std::vector<std::size_t> order(logits.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return logits[a] > logits[b]; });
  if (s.top_k > 0) order.resize(std::min(order.size(), static_cast<std::size_t>(s.top_k)));
  const auto weight = [&](std::size_t id) {
    return std::exp(static_cast<double>(logits[id]) / s.temperature);
  };
  double all = 0, kept = 0;
  for (const std::size_t id : order) all += weight(id);
  std::vector<double> result(logits.size(), 0.0);
  for (const std::size_t id : order) {
    if (kept / all >= s.top_p) break;
    kept += result[id] = weight(id);
  }
  for (double& p : result) p /= kept;
  return result;
}

/// How often each id comes in `draws` draws.
std::vector<double> frequencies(const std::vector<float>& logits, const Sampling& s, int draws) {
  std::vector<double> result(logits.size(), 0.0);
  for (int i = 0; i < draws; ++i) result[static_cast<std::size_t>(sample(logits, s, i))] += 1;
  for (double& f : result) f /= draws;
  return result;
}

const std::vector<float> kLogits{0.3f, 2.0f, -1.0f, 2.0f, 1.1f, -4.0f, 0.3f};

TEST(Sampler, GreedyTakesTheLowestOfTheLikeliest) {
  EXPECT_EQ(sample(kLogits, {}, 0), 1);
  EXPECT_EQ(sample(std::vector<float>{5}, {}, 0), 0);
  EXPECT_EQ(sample(std::vector<float>(9, -3.0f), {}, 4), 0);
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  EXPECT_EQ(sample(std::vector<float>{kNone, kNone, -1e30f, kNone}, {}, 0), 2);
}

TEST(Sampler, TopOneIsGreedyAtAnyTemperature) {
  for (const double temperature : {1e-300, 0.1, 1.0, 50.0})
    for (Index position = 0; position < 20; ++position) {
      EXPECT_EQ(sample(kLogits, {temperature, 1, 1.0, 3}, position), 1);
      EXPECT_EQ(sample(kLogits, {temperature, 0, 1e-9, 3}, position), 1);
    }
}

TEST(Sampler, DrawsFromTheStatedProbabilities) {
  const Sampling cases[] = {{1, 0, 1, 7},     {0.5, 0, 1, 7},  {3, 0, 1, 7},    {1, 3, 1, 7},
                            {1, 4, 1, 7},     {1, 100, 1, 7},  {1, 0, 0.5, 7},  {1, 0, 0.8, 7},
                            {0.7, 5, 0.9, 7}, {1, 2, 0.49, 7}, {1, 0, 0.999, 7}};
  constexpr int kDraws = 20'000;
  for (const Sampling& s : cases) {
    SCOPED_TRACE(text_of("temperature ", s.temperature, " k ", s.top_k, " p ", s.top_p));
    const std::vector<double> p = probabilities(kLogits, s), f = frequencies(kLogits, s, kDraws);
    for (std::size_t id = 0; id < p.size(); ++id) {
      // Five deviations of a binomial share; an id that was cut never comes.
      EXPECT_NEAR(f[id], p[id], 5 * std::sqrt(p[id] * (1 - p[id]) / kDraws)) << "id " << id;
    }
  }
}

/// The id at which probabilities, added up by falling logit (by id where all may come), pass the
/// draw.
std::int32_t drawn(const std::vector<float>& logits, const Sampling& s, Index position) {
  const std::vector<double> p = probabilities(logits, s);
  std::vector<std::size_t> order(logits.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  if (s.top_k > 0 || s.top_p < 1)
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return logits[a] > logits[b]; });
  double left = Rng{s.seed, 0}.uniform(static_cast<std::uint64_t>(position));
  for (const std::size_t id : order)
    if ((left -= p[id]) < 0) return static_cast<std::int32_t>(id);
  return -1;
}

// Many ids, many of them equally likely.
TEST(Sampler, LargeVocabulariesAreDrawnFromInOrder) {
  const Rng rng{5, 0};
  std::vector<float> logits(20'011);
  for (std::size_t i = 0; i < logits.size(); ++i)
    logits[i] = std::round(40 * static_cast<float>(rng.normal(i))) / 16;
  for (const Sampling& s :
       {Sampling{0.8, 0, 1, 1}, Sampling{0.8, 40, 1, 2}, Sampling{0.8, 0, 0.9, 3},
        Sampling{2, 0, 0.99, 4}, Sampling{1, 300, 0.7, 5}, Sampling{1, 20'010, 1, 6},
        Sampling{1, 30'000, 0.5, 7}}) {
    SCOPED_TRACE(text_of("temperature ", s.temperature, " k ", s.top_k, " p ", s.top_p));
    for (Index position = 0; position < 40; ++position)
      EXPECT_EQ(sample(logits, s, position), drawn(logits, s, position));
  }
}

TEST(Sampler, ACutThatKeepsAllChangesNoProbability) {
  const Sampling all{1, 0, 1, 11}, cut{1, 7, 1, 11};
  const std::vector<double> a = frequencies(kLogits, all, 5000),
                            b = frequencies(kLogits, cut, 5000);
  EXPECT_EQ(a, b);
}

TEST(Sampler, NeverDrawsWhatCannotBe) {
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  const std::vector<float> logits{kNone, 0, kNone, 0, kNone};
  for (Index position = 0; position < 500; ++position) {
    for (const Sampling& s : {Sampling{1, 0, 1, 5}, Sampling{1, 4, 1, 5}, Sampling{1, 0, 0.9, 5}}) {
      const std::int32_t id = sample(logits, s, position);
      EXPECT_TRUE(id == 1 || id == 3) << id;
    }
  }
  EXPECT_EQ(sample(std::vector<float>(3, kNone), {1, 0, 1, 5}, 0), 0);
}

TEST(Sampler, ANumberThatIsNoneIsNotDrawn) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kMost = std::numeric_limits<float>::infinity();
  for (const Sampling& s : {Sampling{0, 0, 1, 5}, Sampling{1, 0, 1, 5}, Sampling{1, 2, 1, 5},
                            Sampling{1, 0, 0.9, 5}, Sampling{0.7, 4, 0.5, 5}})
    for (Index position = 0; position < 50; ++position) {
      EXPECT_EQ(sample(std::vector<float>{kNan, kNan, -3, kNan, kNan}, s, position), 2);
      EXPECT_EQ(sample(std::vector<float>(5, kNan), s, position), 0);
      EXPECT_EQ(sample(std::vector<float>{1, kMost, kNan, kMost, 2}, s, position), 1);
    }
}

TEST(Sampler, DependsOnSeedAndPositionAlone) {
  const std::vector<float> logits(1000, 0.0f);
  std::map<std::int32_t, int> seen;
  for (Index position = 0; position < 50; ++position) {
    const Sampling one{1, 0, 1, 1}, two{1, 0, 1, 2};
    EXPECT_EQ(sample(logits, one, position), sample(logits, one, position));
    ++seen[sample(logits, one, position)];
    ++seen[sample(logits, two, position)];
  }
  EXPECT_GT(seen.size(), 85u) << "100 draws from 1000 ids repeat few";
}

TEST(Sampler, RefusesSettingsThatMeanNothing) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(error_of([] { check({0.7, 3, 0.5, 1}); }), "");
  for (const double temperature : {-0.1, nan})
    EXPECT_NE(error_of([&] { check({temperature, 0, 1, 1}); }).find("temperature: expected 0"),
              std::string::npos);
  EXPECT_NE(error_of([] { check({1, -1, 1, 1}); }).find("top-k: expected"), std::string::npos);
  for (const double p : {0.0, -0.5, 1.5, nan})
    EXPECT_NE(error_of([&] { check({1, 0, p, 1}); }).find("top-p: expected"), std::string::npos);
}

}  // namespace
}  // namespace samba::test
