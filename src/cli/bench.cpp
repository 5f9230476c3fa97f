#include <cstdio>
#include <iostream>

#include "cli/command.h"
#include "cli/commands.h"
#include "cli/self_extend.h"
#include "core/fields.h"
#include "core/human.h"
#include "core/profile.h"
#include "core/table.h"
#include "eval/speed.h"
#include "model/folder.h"

namespace samba {
namespace {

struct Options {
  Common common;
  SpeedOptions speed;
  bool train = false;
  std::string self_extend;
  bool profile = false;

  void fields(auto& f) {
    f("prompt", speed.prompt, "tokens of the prompt, or of a training sequence");
    f("decode", speed.decode, "tokens to generate after it");
    f("sequences", speed.sequences, "sequences at once");
    f("train", train, "time training steps instead: forward, backward, clipping, AdamW");
    f("rounds", speed.rounds, "repetitions; the best counts");
    f("profile", profile, "print the time spent in each kernel");
    f("self_extend", self_extend, kSelfExtendHelp);
    common.fields(f);
  }
};

constexpr const char* kUsage =
    "sambalm bench MODEL\n\n"
    "Times reading a prompt and generating, or training, and states them as shares of what the "
    "machine\n"
    "does in the same minute: operations against its peak in registers, generated tokens against\n"
    "reading weights and state from memory. A preset gets random weights.";

}  // namespace

int run_bench(const std::vector<std::string>& all) {
  Options options;
  std::vector<std::string> words = all;
  if (!parse(options, words, kUsage, 1, 1)) return 0;
  expect_size("bench", "prompt", options.speed.prompt);
  expect_size("bench", "sequences", options.speed.sequences);
  expect_size("bench", "rounds", options.speed.rounds);
  if (options.speed.decode != 0) expect_size("bench", "decode", options.speed.decode);
  Stream stream = options.common.stream();
  ModelSource source = open_model(words[0]);
  apply_self_extend(source, options.self_extend);
  const auto model = load_model(source, stream, options.common.element_type(), options.train,
                                static_cast<std::uint64_t>(options.common.seed));
  if (!options.train) model->pack();
  if (options.profile) stream.wait_after_ops(true);
  Profile::clear();
  const std::vector<Speed> rows = options.train
                                      ? std::vector<Speed>{training_speed(*model, options.speed)}
                                      : inference_speed(*model, options.speed);

  Table table({"job", "tokens/s", "time", "share", "of"});
  Json results = Json::array();
  for (const Speed& row : rows) {
    char rate[32], share[32];
    std::snprintf(rate, sizeof(rate), "%.1f", row.tokens / row.seconds);
    std::snprintf(share, sizeof(share), "%.0f%%", 100 * row.share);
    table.add({row.job, rate, human_seconds(row.seconds), share, row.of});
    results.push_back({{"job", row.job},
                       {"tokens_per_second", row.tokens / row.seconds},
                       {"seconds", row.seconds},
                       {"share", row.share},
                       {"of", row.of}});
  }
  if (options.common.json != "-") {
    std::cout << model->config().name << ", " << options.common.dtype << ", " << stream.threads()
              << " threads, " << stream.device() << "\n\n";
    table.print(std::cout);
    if (options.profile) std::cout << '\n' << Profile::table();
  }
  options.common.write_result(results);
  return 0;
}

}  // namespace samba
