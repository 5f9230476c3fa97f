#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <string>
#include <vector>

#include "core/error.h"
#include "kernels/probe.h"
#include "layers/registry.h"
#include "measure.h"

// Whole layers as the paper's models of width 1536 have them, one sequence of 1024 tokens, in turns
// with the products that they are measured by. Columns:
//   ms      the best of all turns
//   share   of the rate of matrix products of this type: operations as Layer::flops counts them
namespace samba::bench {
namespace {

constexpr Index kWidth = 1536, kTokens = 1024;

struct Case {
  const char* entry;
  bool backward;
  DType dtype;
};

void run_case(benchmark::State& state, const Case& c) {
  Stream stream;
  std::deque<Parameter> parameters;
  std::vector<StateShape> shapes;
  Json entry = Json::parse(c.entry);
  const auto layer = make_layer(
      entry, "bench", kWidth, Plan(parameters, shapes, c.dtype, InitScheme{false, kWidth, 24, 12}));
  for (Parameter& p : parameters) {
    const DType type = p.exact ? DType::f32 : c.dtype;
    p.value =
        random_matrix(stream, type, p.rows, p.cols, 1 / std::sqrt(static_cast<float>(p.cols)));
    p.grad = Matrix(stream, DType::f32, p.rows, p.cols);
    fill(p.grad, 0);
  }
  const Matrix x = random_matrix(stream, c.dtype, kTokens, kWidth),
               dy = random_matrix(stream, c.dtype, kTokens, kWidth),
               y(stream, c.dtype, kTokens, kWidth), dx(stream, c.dtype, kTokens, kWidth);
  const std::vector<Span> spans{{.first = 0, .length = kTokens, .position = 0}};
  Pass pass{stream, batch_of(spans), nullptr, true};
  layer->forward(pass, x, y);
  layer->backward(pass, x, dy, dx);
  double best = 1e9, peak = 0;
  for (auto _ : state) {
    peak = std::max(peak, gemm_flops(stream, c.dtype));
    const double forward = seconds([&] { layer->forward(pass, x, y); });
    const double backward = seconds([&] { layer->backward(pass, x, dy, dx); });
    best = std::min(best, c.backward ? backward : forward);
    state.SetIterationTime(c.backward ? backward : forward);
  }
  state.counters["ms"] = best * 1e3;
  state.counters["share"] = (c.backward ? 2 : 1) * layer->flops(0, kTokens) / best / peak;
}

const bool kRegistered = [] {
  constexpr const char* kEntries[] = {
      R"({"type": "attention", "heads": 12, "window": 2048})",
      R"({"type": "gla", "heads": 4})",
      R"({"type": "mamba"})",
      R"({"type": "mega_s6"})",
      R"({"type": "retention", "heads": 6})",
      R"({"type": "swiglu", "d_ff": 4096})",
  };
  for (const char* entry : kEntries)
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const bool backward : {false, true}) {
        const Case c{entry, backward, dtype};
        const std::string name = text_of("layer/", Json::parse(entry).at("type").get<std::string>(),
                                         '/', backward ? "backward" : "forward", '/',
                                         name_of(dtype), "/width:", kWidth, "/rows:", kTokens);
        benchmark::RegisterBenchmark(name.c_str(), [c](benchmark::State& s) { run_case(s, c); })
            ->Iterations(6)
            ->UseManualTime()
            ->Unit(benchmark::kMillisecond);
      }
  return true;
}();

}  // namespace
}  // namespace samba::bench
