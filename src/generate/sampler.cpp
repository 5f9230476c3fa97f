#include "generate/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "core/error.h"
#include "core/rng.h"

// A vocabulary has some ten thousand ids, and one of them is drawn for every token: nothing here is
// sorted that need not be, and exponentials are made many at a time.

namespace samba {
namespace {

/// 2^x for x <= 0 with a relative error below 2e-7, 0 where that is no ordinary number, and where x
/// is none: 2^x = 2^n
/// 2^r with n whole, and the latter a polynomial through Chebyshev's points. Written so that
/// compilers take many at a time.
inline float exp2_of(float x) {
  constexpr float kMagic = 12582912;  // 1.5 2^23: the sum's last digit is 1
  const float bounded = std::max(-126.0f, x), shifted = bounded + kMagic;
  const float r = bounded - (shifted - kMagic);
  float y = 0.000154531634f;
  y = y * r + 0.00133908633f;
  y = y * r + 0.00961808302f;
  y = y * r + 0.0555035695f;
  y = y * r + 0.240226507f;
  y = y * r + 0.693147182f;
  y = y * r + 1;
  const float value = std::bit_cast<float>(std::bit_cast<std::int32_t>(y) +
                                           (std::bit_cast<std::int32_t>(shifted) << 23));
  return x >= -126 ? value : 0;
}

/// What there is to draw from. A thread keeps one from draw to draw: fresh memory for so many
/// numbers would cost more than they do.
struct Candidates {
  std::span<const float> logits;
  std::vector<float> exponents;  ///< of two: 0 for the largest logit
  std::vector<float> weights;    ///< 1 for it, in proportion to probabilities

  void weigh(std::span<const float> all, float best, double temperature) {
    constexpr double kLog2e = 1.44269504088896340736, kMost = 1e30;
    const auto scale = static_cast<float>(std::min(kLog2e / temperature, kMost));
    logits = all;
    exponents.resize(all.size());
    weights.resize(all.size());
    const float* from = logits.data();
    float *z = exponents.data(), *w = weights.data();
    const auto count = static_cast<std::ptrdiff_t>(all.size());
#pragma omp simd
    for (std::ptrdiff_t i = 0; i < count; ++i) {
      z[i] = (from[i] - best) * scale;
      w[i] = exp2_of(z[i]);
    }
  }
};

/// Sums of runs of neighbouring weights, and of all of them.
struct Runs {
  static constexpr std::size_t kRun = 256;
  std::vector<double> sums;
  double all = 0;

  explicit Runs(std::span<const float> weights) {
    for (std::size_t first = 0; first < weights.size(); first += kRun) {
      double sum = 0;
      for (const float w : weights.subspan(first, std::min(kRun, weights.size() - first))) sum += w;
      sums.push_back(sum);
      all += sum;
    }
  }
};

/// The first place at which the sum of weights passes `target`, else the last one of any weight.
std::size_t place_of(std::span<const float> weights, const Runs& runs, double target) {
  std::size_t first = 0;
  for (const double sum : runs.sums) {
    if (target < sum) break;
    target -= sum;
    first += Runs::kRun;
  }
  for (std::size_t i = first; i < weights.size(); ++i) {
    target -= weights[i];
    if (target < 0) return i;
  }
  std::size_t last = weights.size() - 1;
  while (last > 0 && weights[last] == 0) --last;
  return last;
}

/// The likeliest ids of any weight, in falling order of their logits, the lower id first among
/// equals: at least `count` of them, or as many as have `share` of all weight together, whichever
/// is less. Only they are sorted: counting by exponents, an eighth wide, finds them.
std::vector<std::int32_t> likeliest(const Candidates& c, std::size_t count, double share) {
  constexpr int kBins = 2048;
  std::vector<std::size_t> counts(kBins);
  std::vector<double> sums(kBins);
  const auto bin_of = [&](std::size_t i) {
    return static_cast<int>(std::min(kBins - 1.0f, -8 * c.exponents[i]));  // which NaN is, too
  };
  double all = 0;
  for (std::size_t i = 0; i < c.logits.size(); ++i) {
    const auto bin = static_cast<std::size_t>(bin_of(i));
    ++counts[bin];
    sums[bin] += c.weights[i];
  }
  for (const double sum : sums) all += sum;
  int last = 0;
  std::size_t taken = counts[0];
  double sum = sums[0];
  while (last + 1 < kBins && taken < count && sum <= share * all) {
    ++last;
    taken += counts[static_cast<std::size_t>(last)];
    sum += sums[static_cast<std::size_t>(last)];
  }
  std::vector<std::int32_t> ids;
  ids.reserve(taken);
  for (std::size_t i = 0; i < c.logits.size(); ++i)
    if (c.weights[i] > 0 && bin_of(i) <= last) ids.push_back(static_cast<std::int32_t>(i));
  std::sort(ids.begin(), ids.end(), [&](std::int32_t a, std::int32_t b) {
    const float x = c.logits[static_cast<std::size_t>(a)],
                y = c.logits[static_cast<std::size_t>(b)];
    return x != y ? x > y : a < b;
  });
  return ids;
}

}  // namespace

void check(const Sampling& s) {
  if (!(s.temperature >= 0)) fail("temperature: expected 0 or more, found ", s.temperature);
  if (s.top_k < 0) fail("top-k: expected at least 1, or 0 for all, found ", s.top_k);
  if (!(s.top_p > 0 && s.top_p <= 1))
    fail("top-p: expected more than 0 and at most 1, found ", s.top_p);
}

std::int32_t sample(std::span<const float> logits, const Sampling& s, Index position) {
  // As op::Argmax: a NaN counts as less than any number.
  float best = -std::numeric_limits<float>::infinity();
  std::int32_t likeliest_id = 0;
  for (std::size_t i = 0; i < logits.size(); ++i)
    if (logits[i] > best) best = logits[i], likeliest_id = static_cast<std::int32_t>(i);
  if (s.temperature == 0 || !std::isfinite(best)) return likeliest_id;

  const double draw = Rng{s.seed, 0}.uniform(static_cast<std::uint64_t>(position));
  thread_local Candidates candidates;
  candidates.weigh(logits, best, s.temperature);
  const bool cut = s.top_k > 0 && s.top_k < static_cast<Index>(logits.size());
  if (!cut && s.top_p == 1) {
    const Runs runs(candidates.weights);
    return static_cast<std::int32_t>(place_of(candidates.weights, runs, draw * runs.all));
  }
  // Of all ids p is a share of all weight; of k, of theirs.
  const std::size_t most = cut ? static_cast<std::size_t>(s.top_k) : logits.size();
  std::vector<std::int32_t> ids = likeliest(candidates, most, cut ? 1 : s.top_p);
  ids.resize(std::min(ids.size(), most));
  std::vector<float> weights;
  for (const std::int32_t id : ids)
    weights.push_back(candidates.weights[static_cast<std::size_t>(id)]);
  const double all = Runs(cut ? weights : candidates.weights).all;
  double sum = 0;
  std::size_t kept = 0;
  while (kept < weights.size() && sum < s.top_p * all) sum += weights[kept++];
  weights.resize(kept);
  return ids[place_of(weights, Runs(weights), draw * sum)];
}

}  // namespace samba
