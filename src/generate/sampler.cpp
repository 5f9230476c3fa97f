#include "generate/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/error.h"
#include "core/rng.h"

namespace samba {
namespace {

/// Ids in falling order of their logit, the lower id first among equals; the first k of them.
std::vector<std::int32_t> likeliest(std::span<const float> logits, std::size_t k) {
  std::vector<std::int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto before = [&](std::int32_t a, std::int32_t b) {
    const float x = logits[static_cast<std::size_t>(a)], y = logits[static_cast<std::size_t>(b)];
    return x != y ? x > y : a < b;
  };
  std::partial_sort(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(k), ids.end(), before);
  ids.resize(k);
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
  const auto best = std::max_element(logits.begin(), logits.end());
  if (s.temperature == 0) return static_cast<std::int32_t>(best - logits.begin());

  std::vector<std::int32_t> ids;
  const bool cut = (s.top_k > 0 && s.top_k < static_cast<Index>(logits.size())) || s.top_p < 1;
  if (cut) {
    const bool k_cut = s.top_k > 0 && s.top_k < static_cast<Index>(logits.size());
    ids = likeliest(logits, k_cut ? static_cast<std::size_t>(s.top_k) : logits.size());
  } else {
    ids.resize(logits.size());
    std::iota(ids.begin(), ids.end(), 0);
  }
  std::vector<double> weights(ids.size());
  double sum = 0;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const double logit = logits[static_cast<std::size_t>(ids[i])];
    sum += weights[i] = std::exp((logit - static_cast<double>(*best)) / s.temperature);
  }
  if (s.top_p < 1) {
    double kept = 0;
    std::size_t count = 0;
    while (count < ids.size() && kept < s.top_p * sum) kept += weights[count++];
    ids.resize(count);
    sum = kept;
  }
  double left = Rng{s.seed, 0}.uniform(static_cast<std::uint64_t>(position)) * sum;
  for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
    left -= weights[i];
    if (left < 0) return ids[i];
  }
  return ids.back();
}

}  // namespace samba
