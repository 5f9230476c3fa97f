#include "text/prepare.h"

#include <iostream>

#include "cli/command.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "core/error.h"
#include "core/human.h"
#include "core/progress.h"
#include "core/table.h"

namespace samba {
namespace {

struct Options {
  Common common;
  std::string tokenizer;
  std::string out;
  std::string split = "train";
  std::string prefix;
  Index chunk = 2049 * 1024;
  double validation = 0;
  bool paper = false;
  Index processes = 1;

  void fields(auto& f) {
    f("tokenizer", tokenizer, "tokenizer file, or a folder with one; a copy goes beside the data");
    f("out", out, "folder to make; a folder per split goes in it");
    f("split", split, "name of the split");
    f("prefix", prefix, "beginning of file names; empty: the split's name");
    f("chunk", chunk, "tokens of a file");
    f("validation", validation, "share of documents that goes to a split \"validation\" instead");
    f("paper", paper, "files as the authors' program writes them: fixed chunks, dropped tails");
    f("processes", processes, "paper: writers, each with files of its own");
    f("threads", common.threads, "threads; 0: one per core");
    f("json", common.json, "write the result as JSON to this file; -: to standard output");
    f("quiet", common.quiet, "no progress");
  }
};

constexpr const char* kUsage =
    "sambalm prepare TEXT... --tokenizer TOKENIZER --out FOLDER\n\n"
    "Packs documents into token files. TEXT is a text file (one document), .jsonl (a document a "
    "line,\n"
    "in \"text\"), either with .zst, or a folder of them. No document is lost, and the files are "
    "the\n"
    "same for every number of threads.";

}  // namespace

int run_prepare(const std::vector<std::string>& all) {
  Options options;
  std::vector<std::string> words = all;
  if (!parse(options, words, kUsage, 1, 10'000)) return 0;
  if (options.tokenizer.empty()) throw UsageError("expected --tokenizer TOKENIZER");
  if (options.out.empty()) throw UsageError("expected --out FOLDER");
  if (options.processes < 1 || options.processes > 100'000)
    fail("processes: expected 1 to 100000, found ", options.processes);

  Progress progress(
      {.label = "prepare", .unit = "bytes", .total = 0, .quiet = options.common.quiet});
  PrepareOptions prepare_options;
  prepare_options.inputs = words;
  prepare_options.tokenizer = options.tokenizer;
  prepare_options.output = options.out;
  prepare_options.split = options.split;
  prepare_options.prefix = options.prefix;
  prepare_options.chunk = options.chunk;
  prepare_options.validation = options.validation;
  prepare_options.threads = static_cast<int>(options.common.threads);
  prepare_options.paper = options.paper;
  prepare_options.processes = static_cast<int>(options.processes);
  prepare_options.progress = [&](const PrepareProgress& p) {
    if (interrupted()) throw Interrupted();
    progress.set_total(static_cast<double>(p.bytes_total));
    progress.update(static_cast<double>(p.bytes_read),
                    human_count(static_cast<double>(p.tokens)) + " tokens");
  };
  watch_interrupts();
  const std::vector<PackedMeta> splits = prepare(prepare_options);
  progress.finish();

  Table table({"split", "documents", "tokens", "files"});
  Json rows = Json::array();
  for (const PackedMeta& split : splits) {
    table.add({split.split, std::to_string(split.documents), std::to_string(split.tokens),
               std::to_string(split.files.size())});
    rows.push_back({{"split", split.split},
                    {"documents", split.documents},
                    {"tokens", split.tokens},
                    {"files", split.files.size()}});
  }
  if (options.common.json != "-") table.print(std::cout);
  options.common.write_result({{"folder", options.out}, {"splits", rows}});
  return 0;
}

}  // namespace samba
