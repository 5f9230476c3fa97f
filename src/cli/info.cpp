#include <iostream>
#include <map>

#include "cli/command.h"
#include "cli/commands.h"
#include "core/fields.h"
#include "core/human.h"
#include "core/table.h"
#include "model/folder.h"

namespace samba {
namespace {

struct Options {
  Common common;
  bool list = false;
  Index context = 0;

  void fields(auto& f) {
    f("list", list, "list the presets");
    f("context", context,
      "tokens that growing states and operations are counted for; 0: the model's");
    common.fields(f);
  }
};

constexpr const char* kUsage =
    "sambalm info MODEL | --list\n\n"
    "What a model folder or preset is: layers, parameters, bytes of state of one sequence, "
    "operations\n"
    "per token, memory to train.";

/// "mamba", or "attention + swiglu" where layers share a norm.
std::string describe(const Json& layer) {
  if (!layer.contains("layers")) return layer.at("type").get<std::string>();
  std::string text;
  for (const Json& inner : layer.at("layers"))
    text += (text.empty() ? "" : " + ") + describe(inner);
  return text;
}

/// "6 x (mamba, swiglu, attention, swiglu)": the list with its shortest period.
std::string describe(const std::vector<Json>& layers) {
  std::vector<std::string> types;
  for (const Json& layer : layers) types.push_back(describe(layer));
  std::size_t period = 1;
  const auto repeats = [&] {
    for (std::size_t i = period; i < types.size(); ++i)
      if (layers[i] != layers[i - period]) return false;
    return types.size() % period == 0;
  };
  while (period < types.size() && !repeats()) ++period;
  std::string text;
  for (std::size_t i = 0; i < std::min(period, types.size()); ++i)
    text += (i == 0 ? "" : ", ") + types[i];
  return std::to_string(types.size() / std::max<std::size_t>(period, 1)) + " x (" + text + ")";
}

int list_presets(const Options& options) {
  Stream stream = options.common.stream();
  Table table({"preset", "parameters", "layers"});
  Json rows = Json::array();
  for (const std::string& name : preset_names()) {
    const Model model(open_model(name).layout.config, stream, DType::f32);
    table.add({name, std::to_string(model.parameter_count()), describe(model.config().layers)});
    rows.push_back({{"name", name}, {"parameters", model.parameter_count()}});
  }
  if (options.common.json != "-") table.print(std::cout);
  options.common.write_result(rows);
  return 0;
}

}  // namespace

int run_info(const std::vector<std::string>& all) {
  Options options;
  std::vector<std::string> words = all;
  if (!parse(options, words, kUsage, 0, 1)) return 0;
  if (options.list) return list_presets(options);
  if (words.empty()) throw UsageError("expected a MODEL or --list");
  if (options.context != 0) expect_size("info", "context", options.context);
  Stream stream = options.common.stream();
  const DType dtype = options.common.element_type();
  const ModelSource source = open_model(words[0]);
  const Model model(source.layout.config, stream, dtype);
  const ModelConfig& config = model.config();
  const Index context = options.context > 0 ? options.context : config.context;

  Index matrices = 0;
  for (const Parameter& p : model.parameters()) matrices += p.exact ? 0 : p.size();
  const Index exact = model.parameter_count() - matrices;
  const Index weights = matrices * size_of(dtype) + exact * size_of(exact_of(dtype));
  // Gradient and two moments, and a master copy beside bf16 weights; all f32 (f64 for f64).
  const Index masters = dtype == DType::bf16 ? matrices * size_of(DType::f32) : 0;
  const Index training = weights + masters + 3 * model.parameter_count() * size_of(exact_of(dtype));
  const double per_token = model.flops(0, context) / static_cast<double>(context);
  const Json result = {{"name", config.name},
                       {"layout", source.folder.empty() ? "ours" : source.layout.kind},
                       {"layers", describe(config.layers)},
                       {"d_model", config.d_model},
                       {"vocabulary", config.vocab},
                       {"tied", config.tied},
                       {"parameters", model.parameter_count()},
                       {"dtype", name_of(dtype)},
                       {"weight_bytes", weights},
                       {"context", context},
                       {"state_bytes", model.state_bytes(context)},
                       {"state_grows", model.has_growing_state()},
                       {"flops_per_token", per_token},
                       {"training_bytes", training}};
  if (options.common.json != "-") {
    Table table({"", config.name});
    table.add({"layout", result["layout"].get<std::string>()});
    table.add({"layers", describe(config.layers)});
    table.add({"width", std::to_string(config.d_model)});
    table.add({"vocabulary", std::to_string(config.vocab) + (config.tied ? ", tied" : ", untied")});
    table.add({"parameters", std::to_string(model.parameter_count())});
    table.add({"weights", human_bytes(static_cast<double>(weights)) + " in " + name_of(dtype)});
    table.add(
        {"state of a sequence",
         human_bytes(static_cast<double>(model.state_bytes(context))) +
             (model.has_growing_state() ? " at " + std::to_string(context) + " tokens, growing"
                                        : ", whatever its length")});
    table.add({"operations per token", human_count(per_token) + " forward, " +
                                           human_count(3 * per_token) + " in training, at " +
                                           std::to_string(context) + " tokens"});
    table.add({"memory to train", human_bytes(static_cast<double>(training)) +
                                      " for weights, gradients and optimizer, activations apart"});
    table.print(std::cout);
  }
  options.common.write_result(result);
  return 0;
}

}  // namespace samba
