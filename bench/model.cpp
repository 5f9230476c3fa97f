#include <benchmark/benchmark.h>

#include <numeric>
#include <string>
#include <vector>

#include "core/error.h"
#include "eval/speed.h"
#include "model/folder.h"

// Whole models with random weights: a training step, reading a prompt, generating token by token;
// and training steps of the first two blocks of each architecture of the paper's table 3, in its
// width and with its vocabulary.
// Columns:
//   tokens/s
//   share    of what the machine did in the same minute: training of the rate of matrix products
//            of this type, prompts of the peak in registers, single tokens of reading memory
namespace samba::bench {
namespace {

/// Training steps over one sequence of 1024 tokens; `blocks` > 0: of that many blocks of the model.
void run_training(benchmark::State& state, const std::string& name, std::size_t blocks,
                  DType dtype) {
  Stream stream;
  ModelSource source = open_model(name);
  std::vector<Json>& layers = source.layout.config.layers;
  if (blocks > 0) {
    const std::vector<Index> lengths = block_lengths(layers);
    layers.resize(static_cast<std::size_t>(std::accumulate(
        lengths.begin(), lengths.begin() + static_cast<std::ptrdiff_t>(blocks), Index{0})));
  }
  const auto model = load_model(source, stream, dtype, /*training=*/true, /*seed=*/1);
  Speed speed{};
  for (auto _ : state) {
    speed = training_speed(*model, {.prompt = 1024, .rounds = blocks > 0 ? 3 : 8});
    state.SetIterationTime(speed.seconds);
  }
  state.counters["tokens/s"] = speed.tokens / speed.seconds;
  state.counters["share"] = speed.share;
}

void run_inference(benchmark::State& state, const char* preset, DType dtype, bool decodes) {
  Stream stream;
  const auto model = load_model(open_model(preset), stream, dtype, /*training=*/false, /*seed=*/1);
  model->pack();
  Speed speed{};
  for (auto _ : state) {
    // What generates reads a short prompt first; its speed is not looked at.
    speed = decodes ? inference_speed(*model, {.prompt = 64, .decode = 64}).back()
                    : inference_speed(*model, {.prompt = 512, .decode = 0}).front();
    state.SetIterationTime(speed.seconds);
  }
  state.counters["tokens/s"] = speed.tokens / speed.seconds;
  state.counters["share"] = speed.share;
}

const bool kRegistered = [] {
  const auto add = [](const std::string& name, auto&& run) {
    benchmark::RegisterBenchmark(name.c_str(), run)
        ->Iterations(1)
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
  };
  for (const DType dtype : {DType::f32, DType::bf16})
    add(text_of("train/samba-20m/", name_of(dtype), "/1x1024"), [dtype](benchmark::State& s) {
      run_training(s, SAMBA_SOURCE_DIR "/bench/samba-20m.json", 0, dtype);
    });
  for (const char* preset : {"llama-438m", "llama-438m-swa", "mamba-430m", "llama-438m-swa-gla",
                             "llama-446m-swa-ret", "s6mega-438m", "mamba-swa-mlp-400m",
                             "samba-421m-abl-mamba", "samba-421m-nope", "samba-421m"})
    for (const DType dtype : {DType::f32, DType::bf16})
      add(text_of("table3/", preset, '/', name_of(dtype), "/1x1024"),
          [=](benchmark::State& s) { run_training(s, preset, 2, dtype); });
  for (const char* preset : {"llama-438m", "mamba-432m"})
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const bool decodes : {false, true})
        add(text_of(decodes ? "decode/" : "prompt/", preset, '/', name_of(dtype)),
            [=](benchmark::State& s) { run_inference(s, preset, dtype, decodes); });
  return true;
}();

}  // namespace
}  // namespace samba::bench
