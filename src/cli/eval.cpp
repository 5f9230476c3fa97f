#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iostream>

#include "cli/command.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/self_extend.h"
#include "core/error.h"
#include "core/fields.h"
#include "core/progress.h"
#include "core/table.h"
#include "eval/run_report.h"
#include "model/folder.h"
#include "text/tokenizer.h"
#include "train/validation.h"

namespace samba {
namespace {

struct Options {
  Common common;
  std::string data;
  std::vector<Index> lengths;
  Index sequences = 200;
  std::string self_extend;
  std::string report;
  std::vector<std::string> prompt;
  Index tokens = 300;

  void fields(auto& f) {
    f("data", data, "folder that `prepare` wrote; its split \"validation\" where it has one");
    f("lengths", lengths, "context lengths; default: 1, 2, 3 and 4 times the training length");
    f("sequences", sequences, "sequences at most, each of the longest length");
    f("report", report, "write an HTML report of the model and its training to this file");
    f("prompt", prompt, "text that the report's sample continues; may be repeated");
    f("tokens", tokens, "new tokens of a sample");
    f("self_extend", self_extend, kSelfExtendHelp);
    common.fields(f);
  }
};

constexpr const char* kUsage =
    "sambalm eval perplexity MODEL --data FOLDER\n\n"
    "Perplexity by context length: for each length L the exponential of the mean loss over the "
    "first\n"
    "L predictions of each sequence. Below what training saw it should fall, beyond it not rise.";

std::string fixed(double value, const char* format) {
  char text[32];
  std::snprintf(text, sizeof(text), format, value);
  return text;
}

void write(const Options& options, const ModelSource& source, Model& model,
           const std::vector<LengthLoss>& losses, Index sequences) {
  Report report = run_report(source, model, losses, sequences);
  if (!options.prompt.empty()) {
    const Tokenizer tokenizer(source.folder);
    for (const std::string& prompt : options.prompt)
      report.samples.push_back(write_sample(model, tokenizer, prompt, options.tokens,
                                            static_cast<std::uint64_t>(options.common.seed)));
  }
  watch_interrupts();  // the file appears whole or not at all
  write_report(options.report, report);
}

int perplexity(std::vector<std::string> words) {
  Options options;
  if (!parse(options, words, kUsage, 1, 1)) return 0;
  if (options.data.empty()) throw UsageError("expected --data FOLDER");
  if (options.sequences < 1) fail("sequences: expected at least 1, found ", options.sequences);
  ModelSource source = open_model(words[0]);
  apply_self_extend(source, options.self_extend);
  if (source.folder.empty())
    fail(words[0], ": a preset has no weights; train it first: sambalm train ", words[0]);
  if (options.lengths.empty())
    for (const Index times : {1, 2, 3, 4})
      options.lengths.push_back(times * source.layout.config.context);
  std::sort(options.lengths.begin(), options.lengths.end());
  for (const Index length : options.lengths) expect_size("eval", "lengths", length);

  const TokenWindows windows(find_split(options.data, "validation"), options.lengths.back() + 1);
  if (const std::string own = find_tokenizer(source.folder); !own.empty())
    windows.expect_tokenizer(Tokenizer(own).hash());
  Stream stream = options.common.stream();
  const auto model = load_model(source, stream, options.common.element_type(), false);
  model->pack();

  const Index count = std::min(windows.count(), options.sequences);
  Progress progress({.label = "perplexity",
                     .unit = "tokens",
                     .total = static_cast<double>(count * options.lengths.back()),
                     .quiet = options.common.quiet});
  const std::vector<LengthLoss> losses = validate(
      *model, windows, options.lengths, count,
      [&](Index done) { progress.update(static_cast<double>(done * options.lengths.back())); });
  progress.finish();

  Table table({"length", "loss", "perplexity"});
  Json rows = Json::array();
  for (const LengthLoss& l : losses) {
    table.add({std::to_string(l.length), fixed(l.loss, "%.4f"), fixed(std::exp(l.loss), "%.3f")});
    rows.push_back({{"length", l.length}, {"loss", l.loss}, {"perplexity", std::exp(l.loss)}});
  }
  if (options.common.json != "-") {
    table.print(std::cout);
    std::cout << count << " sequences of " << options.lengths.back() << " tokens from "
              << windows.folder() << '\n';
  }
  if (!options.report.empty()) write(options, source, *model, losses, count);
  options.common.write_result({{"model", words[0]}, {"sequences", count}, {"lengths", rows}});
  return 0;
}

}  // namespace

int run_eval(const std::vector<std::string>& words) {
  const std::string task = words.empty() ? "" : words[0];
  const std::vector<std::string> rest(words.begin() + (words.empty() ? 0 : 1), words.end());
  if (task == "perplexity") return perplexity(rest);
  if (task == "--help" || task == "-h") return perplexity({"--help"});
  throw UsageError("eval: expected a task: perplexity");
}

}  // namespace samba
