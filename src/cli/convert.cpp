#include "model/convert.h"

#include <iostream>

#include "cli/command.h"
#include "cli/commands.h"
#include "core/error.h"
#include "core/progress.h"
#include "text/tokenizer.h"

namespace samba {
namespace {

struct Options {
  std::string to = "sambalm";
  std::string type;
  bool pth = false;
  bool quiet = false;

  void fields(auto& f) {
    f("to", to,
      "layout of the new folder: sambalm, lit_gpt (microsoft/Samba), llama, mistral, mamba "
      "(Hugging "
      "Face), state_spaces, samba, gla, retnet (flash-linear-attention)");
    f("type", type, "type of the stored weights: f32 or bf16; empty: as they are");
    f("pth", pth, "lit_gpt: write the weights as the authors' own .pth, not as safetensors");
    f("quiet", quiet, "no progress");
  }
};

constexpr const char* kUsage =
    "sambalm convert MODEL FOLDER\n\n"
    "Writes a model into a new folder in another layout, its tokenizer with it. What the layout "
    "cannot\nexpress is refused with the reason.";

}  // namespace

int run_convert(const std::vector<std::string>& all) {
  Options options;
  std::vector<std::string> words = all;
  if (!parse(options, words, kUsage, 2, 2)) return 0;
  std::optional<DType> type;
  if (options.type == "f32") type = DType::f32;
  if (options.type == "bf16") type = DType::bf16;
  if (!type && !options.type.empty())
    fail("--type: expected f32 or bf16, found \"", options.type, "\"");
  const ModelSource source = open_model(words[0]);
  Progress progress({.label = "convert", .unit = "tensors", .quiet = options.quiet});
  const auto show = [&](Index done, Index of) {
    progress.set_total(static_cast<double>(of));
    progress.update(static_cast<double>(done));
  };
  // A tokenizer that only we read becomes one that others know.
  const auto add_tokenizer = [&](const std::string& folder) {
    if (find_tokenizer(folder).empty() && !find_tokenizer(source.folder).empty())
      Tokenizer(source.folder).write(folder);
  };
  convert_model(source, {options.to, type, options.pth}, words[1], show, add_tokenizer);
  progress.finish();
  std::cout << words[0] << " (" << source.layout.kind << ") is now in " << words[1] << " ("
            << options.to << ")\n";
  return 0;
}

}  // namespace samba
