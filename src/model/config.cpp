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

constexpr std::size_t kMostLayers = 4096;  // those inside of entries counted
constexpr std::size_t kMostText = std::size_t{2} << 20;

/// A list without "repeat". It is bounded before it is made: a short file may ask for any number
/// of copies of any entry.
class Expanded {
 public:
  const std::vector<Json>& entries() const { return entries_; }
  std::vector<Json> take() { return std::move(entries_); }

  void add(const Json& entry, const std::string& place) {
    const bool holds_layers = entry.contains("layers") && entry.at("layers").is_array();
    grow(holds_layers ? entry.at("layers").size() : 1, entry.dump().size(), place);
    entries_.push_back(entry);
  }
  void add(const Expanded& part, const std::string& place) {
    grow(part.layers_, part.text_, place);
    entries_.insert(entries_.end(), part.entries_.begin(), part.entries_.end());
  }

 private:
  std::vector<Json> entries_;
  std::size_t layers_ = 0;
  std::size_t text_ = 0;  // bytes of the entries as JSON

  void grow(std::size_t layers, std::size_t text, const std::string& place) {
    layers_ += layers;
    text_ += text;
    if (layers_ > kMostLayers) fail(place, ": expected at most ", kMostLayers, " layers");
    if (text_ > kMostText)
      fail(place, ": expected entries of at most ", kMostText, " bytes together, repeats counted");
  }
};

Expanded expand(const Json& list, const std::string& place) {
  if (!list.is_array()) fail(place, ": expected a list, found ", list.dump());
  Expanded out;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const std::string here = text_of(place, '[', i, ']');
    const Json& entry = list[i];
    if (!entry.is_object()) fail(here, ": expected an object, found ", entry.dump());
    if (!entry.contains("repeat")) {
      out.add(entry, place);
      continue;
    }
    Index repeat = 0;
    JsonFields f(entry, here);
    f("repeat", repeat, "");
    f.ignore("layers");
    f.finish();
    if (repeat < 1) fail(here, ": repeat: expected at least 1, found ", repeat);
    if (!entry.contains("layers")) fail(here, ": repeat: expected \"layers\" beside it");
    const Expanded inner = expand(entry.at("layers"), here + ".layers");
    if (inner.entries().empty()) continue;  // however often
    for (Index k = 0; k < repeat; ++k) out.add(inner, place);
  }
  return out;
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
  config.layers = expand(document.at("layers"), place + ": layers").take();
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
