#include "eval/verify.h"

#include <cmath>
#include <cstdio>
#include <iostream>

#include "cli/command.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "core/error.h"
#include "core/table.h"

namespace samba {
namespace {

struct Options {
  Common common;
  std::string mode = "parallel";
  std::string write;

  void fields(auto& f) {
    f("mode", mode, "parallel: whole sequences; chunked: uneven pieces; recurrent: token by token");
    f("write", write, "store what was computed in this file, under the same names");
    common.fields(f);
  }
};

constexpr const char* kUsage =
    "sambalm verify MODEL EXPECTED.safetensors\n\n"
    "Runs the tokens of EXPECTED through the model and compares logits, loss, gradients and "
    "greedy\n"
    "continuation with those stored there. Exits 1 when one is off by more than its bound.";

std::string scientific(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.2e", value);
  return text;
}

}  // namespace

int run_verify(const std::vector<std::string>& all) {
  Options options;
  std::vector<std::string> words = all;
  if (!parse(options, words, kUsage, 2, 2)) return 0;
  Stream stream = options.common.stream();
  if (!options.write.empty()) watch_interrupts();  // the file appears whole or not at all
  const VerifyResult result =
      verify(open_model(words[0]), words[1], stream, options.common.element_type(),
             verify_mode(options.mode), options.write);
  Table table({"tensor", "relative error", "bound", ""});
  Json rows = Json::array();
  for (const VerifyRow& row : result.rows) {
    table.add(
        {row.tensor, scientific(row.error), scientific(row.bound), row.passed() ? "" : "above"});
    rows.push_back({{"tensor", row.tensor},
                    {"error", row.error},
                    {"bound", row.bound},
                    {"passed", row.passed()}});
  }
  if (options.common.json != "-") {
    table.print(std::cout);
    std::cout << (result.passed() ? "All " : "Not all ") << result.rows.size()
              << " tensors agree with " << words[1] << " (" << options.mode << ", "
              << options.common.dtype << ", " << stream.device() << ")\n";
  }
  options.common.write_result(
      {{"passed", result.passed()}, {"mode", options.mode}, {"tensors", rows}});
  return result.passed() ? 0 : 1;
}

}  // namespace samba
