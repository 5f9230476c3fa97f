#include "layers/registry.h"

#include <map>

#include "core/error.h"
#include "core/fields.h"
#include "layers/attention.h"
#include "layers/linear_attention.h"
#include "layers/mamba.h"
#include "layers/mega_s6.h"
#include "layers/parallel.h"
#include "layers/swiglu.h"

namespace samba {
namespace {

struct Entry {
  std::unique_ptr<Layer> (*make)(Json&, const std::string&, Index, Plan);
  LayerTraits traits;
  std::vector<const char*> examples;
};

template <class L>
std::unique_ptr<Layer> make(Json& entry, const std::string& place, Index d_model, Plan plan) {
  typename L::Config config;
  read_fields(config, entry, place, {"type"});
  Json complete = {{"type", entry.at("type")}};
  complete.update(write_fields(config));
  entry = std::move(complete);
  return std::make_unique<L>(config, d_model, plan.at(place));
}

/// {"type": "parallel", "layers": [...]}: the entries' parameters have names below "0", "1", ...
std::unique_ptr<Layer> make_parallel(Json& entry, const std::string& place, Index d_model,
                                     Plan plan) {
  constexpr std::size_t kMost = 64;
  JsonFields keys(entry, place);
  keys.ignore("type");
  keys.ignore("layers");
  keys.finish();
  if (!entry.contains("layers") || !entry.at("layers").is_array() || entry.at("layers").empty())
    fail(place, ": layers: expected a list of layers");
  Json& list = entry.at("layers");
  if (list.size() > kMost)
    fail(place, ": layers: expected at most ", kMost, ", found ", list.size());
  std::vector<std::unique_ptr<Layer>> layers;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const std::string here = text_of(place, ".layers[", i, ']');
    if (list[i].is_object() && list[i].contains("layers"))
      fail(here, ": expected a layer, found another list of layers");
    if (layer_traits(list[i]).norms)
      fail(here, ": type: expected a layer that shares the norm, found ", list[i].at("type").dump(),
           ", which norms its input itself");
    layers.push_back(make_layer(list[i], here, d_model, plan.inside(text_of(i))));
  }
  return std::make_unique<Parallel>(std::move(layers));
}

/// The only list of layer types.
const std::map<std::string, Entry>& entries() {
  static const std::map<std::string, Entry> list{
      {"attention",
       {make<Attention>,
        {.mixes = true},
        {R"({"type": "attention", "heads": 4, "window": 5})",
         R"({"type": "attention", "heads": 4, "kv_heads": 2, "head_width": 6, "rope_base": 500})",
         R"({"type": "attention", "heads": 2, "kv_heads": 1, "window": 3, "rope": false})",
         R"({"type": "attention", "heads": 4, "window": 6, "qkv_bias": true})",
         R"({"type": "attention", "heads": 4, "kv_heads": 2, "window": 6, "short_conv": 4})",
         R"({"type": "attention", "heads": 2, "rope": false, "qkv_bias": true, "short_conv": 3})"}}},
      {"gla",
       {make<Gla>,
        {.mixes = true},
        {R"({"type": "gla", "heads": 2, "expand_k": 2})",
         R"({"type": "gla", "heads": 1, "expand_k": 1.625, "expand_v": 1.25, "gate_rank": 5, "short_conv": 3})"}}},
      {"mamba",
       {make<Mamba>,
        {.mixes = true},
        {R"({"type": "mamba"})",
         R"({"type": "mamba", "d_state": 5, "d_conv": 3, "expand": 3, "dt_rank": 2, "conv_bias": false})"}}},
      {"mega_s6",
       {make<MegaS6>,
        {.mixes = true, .norms = true},
        {R"({"type": "mega_s6", "chunk": 9, "z_width": 8})",
         R"({"type": "mega_s6", "z_width": 10, "d_state": 5, "d_conv": 3, "dt_rank": 4, "norm_eps": 1e-3})"}}},
      {"parallel",
       {make_parallel,
        {},  // its entries' together
        {R"({"type": "parallel", "layers": [{"type": "attention", "heads": 4, "window": 5},
                                            {"type": "swiglu", "d_ff": 11}]})",
         R"({"type": "parallel", "layers": [{"type": "mamba", "d_state": 5},
                                            {"type": "attention", "heads": 2, "kv_heads": 1},
                                            {"type": "swiglu", "d_ff": 9}]})"}}},
      {"retention",
       {make<Retention>,
        {.mixes = true},
        {R"({"type": "retention", "heads": 2, "expand_k": 2})",
         R"({"type": "retention", "heads": 1, "expand_k": 1.625, "expand_v": 1.5, "rope_base": 500, "short_conv": 4})"}}},
      {"swiglu", {make<SwiGlu>, {}, {R"({"type": "swiglu", "d_ff": 11})"}}},
  };
  return list;
}

}  // namespace

std::unique_ptr<Layer> make_layer(Json& entry, const std::string& place, Index d_model, Plan plan) {
  if (!entry.is_object() || !entry.contains("type") || !entry.at("type").is_string())
    fail(place, ": expected an object with a \"type\", found ", entry.dump());
  const std::string type = entry.at("type").get<std::string>();
  const auto found = entries().find(type);
  if (found == entries().end()) {
    std::string known;
    for (const auto& [name, unused] : entries()) known += (known.empty() ? "" : ", ") + name;
    fail(place, ": unknown type \"", type, "\"; expected one of ", known);
  }
  return found->second.make(entry, place, d_model, plan);
}

std::vector<LayerType> layer_types() {
  std::vector<LayerType> types;
  for (const auto& [name, entry] : entries()) {
    types.push_back({name, {}});
    for (const char* example : entry.examples)
      types.back().examples.push_back(parse_json(example, name));
  }
  return types;
}

LayerTraits layer_traits(const Json& entry) {
  const auto of_type = [](const Json& layer) {
    if (!layer.is_object() || !layer.contains("type") || !layer.at("type").is_string())
      return LayerTraits{};
    const auto found = entries().find(layer.at("type").get<std::string>());
    return found == entries().end() ? LayerTraits{} : found->second.traits;
  };
  LayerTraits traits = of_type(entry);
  // A list inside a list is refused, so one level is enough.
  if (entry.is_object() && entry.contains("layers") && entry.at("layers").is_array()) {
    traits.outputs = static_cast<Index>(entry.at("layers").size());
    for (const Json& inner : entry.at("layers"))
      traits.mixes = traits.mixes || of_type(inner).mixes;
  }
  return traits;
}

}  // namespace samba
