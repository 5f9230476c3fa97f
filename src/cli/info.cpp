#include <algorithm>
#include <iostream>
#include <map>
#include <utility>

#include "cli/command.h"
#include "cli/commands.h"
#include "core/fields.h"
#include "core/human.h"
#include "core/table.h"
#include "model/folder.h"
#include "train/trainer.h"

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

/// The length of the shortest list that `items` repeats.
template <class T>
std::size_t period_of(const std::vector<T>& items) {
  std::size_t period = 1;
  const auto repeats = [&] {
    for (std::size_t i = period; i < items.size(); ++i)
      if (items[i] != items[i - period]) return false;
    return items.size() % period == 0;
  };
  while (period < items.size() && !repeats()) ++period;
  return period;
}

/// "6 x (mamba, swiglu, attention, swiglu)": the list with its shortest period.
std::string describe(const std::vector<Json>& layers) {
  const std::size_t period = period_of(layers);
  std::string text;
  for (std::size_t i = 0; i < std::min(period, layers.size()); ++i)
    text += (i == 0 ? "" : ", ") + describe(layers[i]);
  return std::to_string(layers.size() / period) + " x (" + text + ")";
}

constexpr const char* kLegend =
    "\nBlocks: M Mamba, A attention within a window, F full attention, G gated linear attention,\n"
    "R retention, X Mega-S6 (the window is its chunk), P an MLP in the place of such a layer, MA "
    "one\nafter the other, A+P side by side; each other block ends with an MLP unless \"no MLP\" "
    "is "
    "said.\nheads: of queries/of keys and values, where they differ. context: tokens of a training "
    "sequence.\nA name may be written as the authors do: Samba_421M is samba-421m.\n";

/// A layer in the patterns that kLegend explains.
std::string symbol(const Json& entry) {
  static const std::map<std::string, std::string> symbols{
      {"gla", "G"}, {"mamba", "M"}, {"mega_s6", "X"}, {"retention", "R"}, {"swiglu", "P"}};
  const auto type = entry.at("type").get<std::string>();
  if (type == "attention") return entry.contains("window") ? "A" : "F";
  if (type == "parallel") {
    std::string text;
    for (const Json& inner : entry.at("layers")) text += (text.empty() ? "" : "+") + symbol(inner);
    return text;
  }
  const auto found = symbols.find(type);
  return found == symbols.end() ? type : found->second;
}

/// "(M A) x6", "M x5, F, M x6": the layers of each block that stand before its MLP.
std::string pattern(const std::vector<Json>& layers) {
  std::vector<std::string> blocks;
  bool mlp = false, rope = true;
  auto entry = layers.begin();
  for (const Index length : block_lengths(layers)) {
    const auto end = entry + length, last = length > 1 ? end - 1 : end;
    mlp = mlp || last != end || entry->contains("layers");
    blocks.emplace_back();
    for (; entry != last; ++entry) {
      blocks.back() += symbol(*entry);
      rope = rope && entry->value("rope", true);
    }
    entry = end;
  }
  const auto times = [](std::size_t n) { return n == 1 ? "" : " x" + std::to_string(n); };
  const std::size_t period = period_of(blocks);
  std::string text;
  if (period > 1 && period < blocks.size()) {
    for (std::size_t i = 0; i < period; ++i) text += (i == 0 ? "(" : " ") + blocks[i];
    text += ")" + times(blocks.size() / period);
  } else {
    for (std::size_t i = 0, run = 0; i < blocks.size(); i += run) {
      for (run = 1; i + run < blocks.size() && blocks[i + run] == blocks[i];) ++run;
      text += (i == 0 ? "" : ", ") + blocks[i] + times(run);
    }
  }
  return text + (mlp ? "" : ", no MLP") + (rope ? "" : ", no RoPE");
}

Json preset_row(const std::string& name, Stream& stream) {
  const Json document = config_document(name);
  const Model model(model_config(document, name), stream, DType::f32);
  const ModelConfig& config = model.config();
  Json row = {{"name", name},
              {"group", document.at("group")},
              {"parameters", model.parameter_count()},
              {"blocks", pattern(config.layers)},
              {"d_model", config.d_model}};
  for (const Json& step : config.layers) {
    const Json& layer = step.contains("layers") ? step.at("layers").at(0) : step;
    if (layer.contains("kv_heads") && !row.contains("heads")) {
      const Index heads = layer.at("heads"), kv_heads = layer.at("kv_heads");
      row["heads"] = heads;
      row["kv_heads"] = kv_heads == 0 ? heads : kv_heads;
    }
    for (const char* key : {"window", "chunk"})
      if (layer.contains(key) && !row.contains("window")) row["window"] = layer.at(key);
  }
  row["context"] = config.context;
  return row;
}

/// Every preset, group by group; the group whose largest model is the smallest comes first.
std::vector<Json> preset_rows(Stream& stream) {
  std::vector<Json> rows;
  std::map<std::string, Index> largest;
  for (const std::string& name : preset_names()) {
    rows.push_back(preset_row(name, stream));
    Index& most = largest[rows.back().at("group")];
    most = std::max(most, rows.back().at("parameters").get<Index>());
  }
  const auto place = [&](const Json& row) {
    const auto group = row.at("group").get<std::string>();
    return std::pair(largest.at(group), group);
  };
  std::stable_sort(rows.begin(), rows.end(),
                   [&](const Json& a, const Json& b) { return place(a) < place(b); });
  return rows;
}

int list_presets(const Options& options) {
  Stream stream = options.common.stream();
  const std::vector<Json> rows = preset_rows(stream);
  Table table({"preset", "parameters", "blocks", "width", "heads", "window", "context"});
  std::string group;
  for (const Json& row : rows) {
    const auto number = [&](const char* key) { return row.contains(key) ? row[key].dump() : "-"; };
    if (row["group"] != group) {
      if (!group.empty()) table.add(std::vector<std::string>(7));
      group = row["group"];
      table.add({group, "", "", "", "", "", ""});
    }
    std::string heads = number("heads");
    if (number("kv_heads") != heads) heads += "/" + number("kv_heads");
    table.add({"  " + row["name"].get<std::string>(), number("parameters"), row["blocks"],
               number("d_model"), heads, number("window"), number("context")});
  }
  if (options.common.json != "-") {
    table.print(std::cout);
    std::cout << kLegend;
  }
  options.common.write_result(rows);
  return 0;
}

Index weight_bytes(const Model& model) {
  Index bytes = 0;
  for (const Parameter& p : model.parameters())
    bytes += p.size() * size_of(p.exact ? exact_of(model.dtype()) : model.dtype());
  return bytes;
}

/// With passes of one sequence.
TrainingMemory memory_to_train(const ModelConfig& config, const Stream& stream, DType dtype,
                               Index context, bool recompute) {
  TrainConfig train;
  train.steps = train.batch = 1;
  train.length = context;
  train.recompute = recompute;
  complete(train, config);
  return training_memory(config, stream, dtype, train);
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

  const Index weights = weight_bytes(model);
  const TrainingMemory keeping = memory_to_train(config, stream, dtype, context, false),
                       recomputing = memory_to_train(config, stream, dtype, context, true);
  const std::size_t training = keeping.model + keeping.optimizer;
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
                       {"training_bytes", training},
                       {"pass_bytes", keeping.passes},
                       {"recomputed_pass_bytes", recomputing.passes}};
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
    const auto bytes = [](std::size_t count) { return human_bytes(static_cast<double>(count)); };
    table.add({"memory to train", bytes(training) + " for weights, gradients and optimizer"});
    table.add({"", bytes(keeping.passes) + " for a pass of " + std::to_string(context) +
                       " tokens, " + bytes(recomputing.passes) + " with --recompute"});
    table.print(std::cout);
  }
  options.common.write_result(result);
  return 0;
}

}  // namespace samba
