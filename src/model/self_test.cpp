#include "model/self_test.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <vector>

#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "core/progress.h"
#include "core/rng.h"
#include "kernels/adamw.h"
#include "kernels/argmax.h"
#include "kernels/run.h"

namespace samba {
namespace {

constexpr Index kSequences = 8;  // enough for the forms of kernels that need many
constexpr Index kContext = 512;

/// The model with one layer of each kind.
ModelConfig shortened(ModelConfig config) {
  std::vector<Json> kinds;
  for (const Json& layer : config.layers)
    if (std::find(kinds.begin(), kinds.end(), layer) == kinds.end()) kinds.push_back(layer);
  config.layers = std::move(kinds);
  return config;
}

/// What a passed test holds for, a line each: program, card, model.
std::string subject(const ModelConfig& config, const Stream& stream, DType dtype, bool training) {
  struct stat program{};
  stat("/proc/self/exe", &program);
  return text_of("program ", program.st_size, " bytes of ", program.st_mtim.tv_sec, '.',
                 program.st_mtim.tv_nsec, "\ncard ", stream.card(), "\nmodel ",
                 Json{{"layers", config.layers},
                      {"d_model", config.d_model},
                      {"vocab", config.vocab},
                      {"tied", config.tied}}
                     .dump(),
                 ' ', name_of(dtype), training ? " in training\n" : "\n");
}

/// Empty where there is no place for it.
std::string folder_of_results() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && *cache == '/') return std::string(cache) + "/sambalm";
  const char* home = std::getenv("HOME");
  return home != nullptr && *home == '/' ? std::string(home) + "/.cache/sambalm" : "";
}

class SelfTest {
 public:
  SelfTest(const ModelConfig& config, Stream& stream, DType dtype, bool training)
      : stream_(stream),
        model_(config, stream, dtype),
        progress_({.label = "self-test of the GPU's kernels",
                   .unit = "passes",
                   .total = training ? 5.0 : 4.0}) {
    model_.allocate(training);
    initialise(model_, 1);
    stream_.compare_ops(true);
  }
  ~SelfTest() { stream_.compare_ops(false); }
  SelfTest(const SelfTest&) = delete;
  SelfTest& operator=(const SelfTest&) = delete;

  /// `packed`: as inference reads weights.
  void generate(bool packed) {
    if (packed) model_.pack();
    States states = model_.make_states(kSequences, kContext);
    read(states, {{0, 300, 0, 0}});
    std::vector<Span> prompts{{0, 40, 300, 0}}, tokens{{0, 1, 340, 0}};
    for (Index slot = 1; slot < kSequences; ++slot) {
      prompts.push_back({slot * 40, 40, 0, slot});
      tokens.push_back({slot, 1, 40, slot});
    }
    read(states, prompts);
    read(states, tokens);
    read(states, {{0, 1, 341, 0}});
  }

  void train() {
    constexpr Index kLength = 64, kTokens = kSequences * kLength;
    std::vector<Span> spans;
    for (Index i = 0; i < kSequences; ++i) spans.push_back({i * kLength, kLength, 0, -1});
    Pass pass{stream_, batch_of(spans), nullptr, true};
    model_.loss_and_gradient(pass, ids(kTokens), ids(kTokens), 1.0 / kTokens);
    step();
    progress_.update(++passes_);
  }

 private:
  Matrix ids(Index count) {
    const Matrix all(stream_.host(), DType::i32, count, 1);
    const auto vocabulary = static_cast<std::uint64_t>(model_.config().vocab);
    for (Index n = 0; n < count; ++n)
      *all.row<std::int32_t>(n) = static_cast<std::int32_t>(rng_.below(vocabulary, drawn_++));
    return upload(stream_, all);
  }

  void read(States& states, const std::vector<Span>& spans) {
    const DType exact = exact_of(model_.dtype());
    Pass pass{stream_, batch_of(spans), &states, false};
    const Index n = pass.batch.tokens, count = std::min(n, kSequences);
    const Matrix x(stream_, model_.dtype(), n, model_.config().d_model);
    const Matrix logits(stream_, exact, count, model_.config().vocab);
    const Matrix likeliest(stream_, DType::i32, count, 1);
    model_.forward(pass, ids(n), x);
    model_.head(pass, x.view().block(n - count, count), logits);
    run(stream_, op::Argmax{.y = likeliest, .x = logits});
    progress_.update(++passes_);
  }

  /// An optimizer's step on the embedding.
  void step() {
    const Parameter& p = model_.parameters().front();
    const Index size = p.size();
    const auto flat = [&](View v) { return View{v.data, 1, size, size, v.dtype}; };
    const DType exact = exact_of(model_.dtype());
    const Matrix master(stream_, exact, 1, size), m(stream_, exact, 1, size),
        v(stream_, exact, 1, size), squares(stream_, DType::f64, 1, 1);
    for (const View moment : {master.view(), m.view(), v.view(), squares.view()})
      clear(stream_, moment);
    run(stream_, op::SumOfSquares{.sum = squares, .x = flat(p.grad)});
    run(stream_, op::AdamW{.w = master,
                           .rounded = p.value.dtype() == exact ? View{} : flat(p.value),
                           .m = m,
                           .v = v,
                           .gradient = flat(p.grad),
                           .lr = 1e-3,
                           .beta1 = 0.9,
                           .beta2 = 0.95,
                           .eps = 1e-8,
                           .weight_decay = 0.1,
                           .sums = squares,
                           .clip = 1,
                           .step = 1});
  }

  Stream& stream_;
  Model model_;
  Progress progress_;
  Rng rng_{1, 0};
  std::uint64_t drawn_ = 0;
  int passes_ = 0;
};

}  // namespace

void self_test(const ModelConfig& whole, Stream& stream, DType dtype, bool training) {
  if (stream.cuda() == nullptr || dtype == DType::f64) return;
  const ModelConfig config = shortened(whole);
  const std::string about = subject(config, stream, dtype, training);
  const std::string folder = folder_of_results();
  const std::string path = folder + "/self-test-" + hex(fnv1a(about));
  if (!folder.empty() && exists(path)) return;
  {
    SelfTest test(config, stream, dtype, training);
    test.generate(/*packed=*/!training);
    if (training) test.train();
  }
  stream.pool()->clear();
  if (folder.empty()) return;
  try {
    make_folder(folder);
    write_text(path, about);
  } catch (const Error& error) {
    std::cerr << error.what() << "; the self-test runs again next time\n";
  }
}

}  // namespace samba
