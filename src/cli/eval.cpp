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
#include "eval/comparison.h"
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
    f("lengths", lengths,
      "context lengths; default: 1, 2, 3 and 4 times the (first) model's training length");
    f("sequences", sequences, "sequences at most, each of the longest length");
    f("report", report, "write an HTML report of the models and their training to this file");
    f("prompt", prompt, "text that the report's sample continues; may be repeated");
    f("tokens", tokens, "new tokens of a sample");
    f("self_extend", self_extend, kSelfExtendHelp);
    common.fields(f);
  }
};

/// What token frequencies alone reach, beside the models.
constexpr const char* kUnigram = "unigram";

constexpr const char* kUsage =
    "sambalm eval perplexity MODEL... --data FOLDER\n\n"
    "Perplexity by context length: for each length L the exponential of the mean loss over the "
    "first\n"
    "L predictions of each sequence. Below what training saw it should fall, beyond it not rise. "
    "Several\nmodels are set side by side, in the report with their training curves and speeds. "
    "\"unigram\" is the\nperplexity of the tokens' frequencies alone, without any context.";

std::string fixed(double value, const char* format) {
  char text[32];
  std::snprintf(text, sizeof(text), format, value);
  return text;
}

struct Measured {
  std::vector<LengthLoss> losses;
  Index sequences = 0;
  Report report;  ///< empty unless asked for
};

Report report_of(const Options& options, const ModelSource& source, Model& model,
                 const Measured& measured) {
  Report report = run_report(source, model, measured.losses, measured.sequences);
  if (options.prompt.empty()) return report;
  const Tokenizer tokenizer(source.folder);
  for (const std::string& prompt : options.prompt)
    report.samples.push_back(write_sample(model, tokenizer, prompt, options.tokens,
                                          static_cast<std::uint64_t>(options.common.seed)));
  return report;
}

Measured measure(const Options& options, const std::string& name, const TokenWindows& windows,
                 Stream& stream) {
  ModelSource source = open_model(name);
  apply_self_extend(source, options.self_extend);
  const auto model = load_model(source, stream, options.common.element_type(), false);
  model->pack();
  Measured measured;
  measured.sequences = std::min(windows.count(), options.sequences);
  Progress progress({.label = "perplexity of " + name,
                     .unit = "tokens",
                     .total = static_cast<double>(measured.sequences * options.lengths.back()),
                     .quiet = options.common.quiet});
  measured.losses = validate(*model, windows, options.lengths, measured.sequences, [&](Index done) {
    progress.update(static_cast<double>(done * options.lengths.back()));
  });
  progress.finish();
  if (!options.report.empty()) measured.report = report_of(options, source, *model, measured);
  return measured;
}

void print_one(const Measured& measured, const std::vector<LengthLoss>& unigram) {
  Table table({"length", "loss", "perplexity", kUnigram});
  for (std::size_t k = 0; k < measured.losses.size(); ++k) {
    const LengthLoss& l = measured.losses[k];
    table.add({std::to_string(l.length), fixed(l.loss, "%.4f"), fixed(std::exp(l.loss), "%.3f"),
               fixed(std::exp(unigram[k].loss), "%.3f")});
  }
  table.print(std::cout);
}

/// A row for each model, a column for each length.
void print_several(const std::vector<std::string>& names, const std::vector<Measured>& all,
                   const std::vector<LengthLoss>& unigram) {
  std::vector<std::string> head{"perplexity"};
  for (const LengthLoss& l : all.front().losses) head.push_back("at " + std::to_string(l.length));
  Table table(head);
  const auto add = [&](const std::string& name, const std::vector<LengthLoss>& losses) {
    std::vector<std::string> row{name};
    for (const LengthLoss& l : losses) row.push_back(fixed(std::exp(l.loss), "%.3f"));
    table.add(row);
  };
  for (std::size_t i = 0; i < all.size(); ++i) add(names[i], all[i].losses);
  add(kUnigram, unigram);
  table.print(std::cout);
}

Json json_of(const std::string& name, const Measured& measured,
             const std::vector<LengthLoss>& unigram) {
  Json rows = Json::array();
  for (std::size_t k = 0; k < measured.losses.size(); ++k) {
    const LengthLoss& l = measured.losses[k];
    rows.push_back({{"length", l.length},
                    {"loss", l.loss},
                    {"perplexity", std::exp(l.loss)},
                    {"unigram_entropy", unigram[k].loss}});
  }
  return {{"model", name}, {"sequences", measured.sequences}, {"lengths", rows}};
}

int perplexity(std::vector<std::string> words) {
  constexpr std::size_t kMostModels = 64;
  Options options;
  if (!parse(options, words, kUsage, 1, kMostModels)) return 0;
  if (options.data.empty()) throw UsageError("expected --data FOLDER");
  if (options.sequences < 1) fail("sequences: expected at least 1, found ", options.sequences);
  for (const std::string& name : words)
    if (open_model(name).folder.empty())
      fail(name, ": a preset has no weights; train it first: sambalm train ", name);
  if (options.lengths.empty())
    for (const Index times : {1, 2, 3, 4})
      options.lengths.push_back(times * open_model(words[0]).layout.config.context);
  std::sort(options.lengths.begin(), options.lengths.end());
  for (const Index length : options.lengths) expect_size("eval", "lengths", length);

  const TokenWindows windows(find_split(options.data, "validation"), options.lengths.back() + 1);
  for (const std::string& name : words)
    if (const std::string own = find_tokenizer(open_model(name).folder); !own.empty())
      windows.expect_tokenizer(Tokenizer(own).hash());
  Stream stream = options.common.stream();
  std::vector<Measured> all;
  for (const std::string& name : words) all.push_back(measure(options, name, windows, stream));

  const std::vector<LengthLoss> unigram =
      unigram_entropy(windows, options.lengths, options.sequences);

  if (options.common.json != "-") {
    if (all.size() == 1)
      print_one(all.front(), unigram);
    else
      print_several(words, all, unigram);
    std::cout << all.front().sequences << " sequences of " << options.lengths.back()
              << " tokens from " << windows.folder() << '\n';
  }
  if (!options.report.empty()) {
    watch_interrupts();  // the file appears whole or not at all
    std::vector<Report> reports;
    for (Measured& measured : all) reports.push_back(std::move(measured.report));
    if (reports.size() == 1)
      write_report(options.report, reports.front());
    else
      write_comparison(options.report, reports, unigram);
  }
  Json rows = Json::array();
  for (std::size_t i = 0; i < all.size(); ++i) rows.push_back(json_of(words[i], all[i], unigram));
  options.common.write_result(rows.size() == 1 ? rows[0] : Json{{"models", rows}});
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
