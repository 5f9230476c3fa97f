#include "model/config.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "core/error.h"
#include "core/fields.h"
#include "core/files.h"
#include "layers/registry.h"
#include "model/presets.h"

namespace samba {
namespace {

constexpr std::size_t kMostLayers = 10'000;

/// Appends the entries of a list, "repeat" expanded.
void expand(const Json& list, const std::string& place, std::vector<Json>& out) {
  if (!list.is_array()) fail(place, ": expected a list, found ", list.dump());
  for (std::size_t i = 0; i < list.size(); ++i) {
    const std::string here = text_of(place, '[', i, ']');
    const Json& entry = list[i];
    if (!entry.is_object()) fail(here, ": expected an object, found ", entry.dump());
    if (!entry.contains("repeat")) {
      out.push_back(entry);
    } else {
      Index repeat = 0;
      JsonFields f(entry, here);
      f("repeat", repeat, "");
      f.ignore("layers");
      f.finish();
      if (repeat < 1) fail(here, ": repeat: expected at least 1, found ", repeat);
      if (!entry.contains("layers")) fail(here, ": repeat: expected \"layers\" beside it");
      std::vector<Json> inner;
      expand(entry.at("layers"), here + ".layers", inner);
      if (inner.empty()) continue;  // however often
      for (Index k = 0; k < repeat && out.size() <= kMostLayers; ++k)
        out.insert(out.end(), inner.begin(), inner.end());
    }
    if (out.size() > kMostLayers) fail(place, ": expected at most ", kMostLayers, " layers");
  }
}

/// A preset's name as its file has it: "LLaMA_438M_SWA" is llama-438m-swa.
std::string preset_form(std::string name) {
  for (char& c : name) c = c == '_' ? '-' : 'A' <= c && c <= 'Z' ? static_cast<char>(c + 32) : c;
  return name;
}

}  // namespace

ModelConfig model_config(const Json& document, const std::string& place) {
  ModelConfig config;
  config.place = place;
  read_fields(config, document, place, {"group", "layers", "train"});
  if (!document.contains("layers")) fail(place, ": expected a key \"layers\"");
  expect_size(place, "vocab", config.vocab);
  expect_size(place, "d_model", config.d_model);
  expect_size(place, "context", config.context);
  if (!(config.norm_eps >= 0))
    fail(place, ": norm_eps: expected 0 or more, found ", config.norm_eps);
  if (config.init != "mamba" && config.init != "neox")
    fail(place, ": init: expected mamba or neox, found \"", config.init, "\"");
  expand(document.at("layers"), place + ": layers", config.layers);
  return config;
}

Json json_of(const ModelConfig& config) {
  Json document = write_fields(config);
  document["layers"] = config.layers;
  return document;
}

std::vector<Index> block_lengths(const std::vector<Json>& layers) {
  std::vector<Index> lengths;
  Index open = 0;  // entries since the last block
  for (const Json& entry : layers) {
    ++open;
    if (open == 1 || layer_traits(entry).mixes) continue;
    lengths.push_back(std::exchange(open, 0));
  }
  lengths.insert(lengths.end(), static_cast<std::size_t>(open), 1);
  return lengths;
}

void self_extend(ModelConfig& config, Index group, Index window) {
  int found = 0;
  const auto extend = [&](const auto& self, Json& layer) -> void {
    if (layer.is_object() && layer.contains("layers"))
      for (Json& inner : layer.at("layers")) self(self, inner);
    if (!layer.is_object() || layer.value("type", "") != "attention" || layer.contains("window"))
      return;
    layer["extend_group"] = group;
    layer["extend_window"] = window;
    ++found;
  };
  for (Json& layer : config.layers) extend(extend, layer);
  if (found == 0)
    fail(config.place, ": self-extend: expected a model with full attention, found none");
}

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const Preset& preset : presets()) names.emplace_back(preset.name);
  std::sort(names.begin(), names.end());
  return names;
}

Json config_document(const std::string& preset_or_path) {
  const std::string form = preset_form(preset_or_path);
  for (const Preset& preset : presets())
    if (form == preset.name) return parse_json(preset.json, preset_or_path);
  if (is_folder(preset_or_path))
    return read_json((std::filesystem::path(preset_or_path) / "config.json").string());
  if (exists(preset_or_path)) return read_json(preset_or_path);
  fail(preset_or_path, ": no such preset, file or folder; sambalm info --list names the presets");
}

}  // namespace samba
