#include <benchmark/benchmark.h>

#include <vector>

#include "core/rng.h"
#include "generate/sampler.h"

// Drawing one of 32000 ids, as behind every token that is not the likeliest.
namespace samba::bench {
namespace {

void draw(benchmark::State& state, const Sampling& sampling) {
  const Rng rng{1, 0};
  std::vector<float> logits(32000);
  for (std::size_t i = 0; i < logits.size(); ++i) logits[i] = 3 * static_cast<float>(rng.normal(i));
  Index position = 0;
  for (auto _ : state) benchmark::DoNotOptimize(sample(logits, sampling, position++));
}

BENCHMARK_CAPTURE(draw, temperature, Sampling{0.8, 0, 1, 1})->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(draw, top_k_40, Sampling{0.8, 40, 1, 1})->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(draw, top_p_095, Sampling{0.8, 0, 0.95, 1})->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace samba::bench
