#include "model/layout.h"

#include <algorithm>

#include "core/error.h"
#include "model/layouts/builder.h"
#include "model/layouts/layouts.h"
#include "model/model.h"

namespace samba {
namespace {

Layout recognise(const Json& config, const std::string& place) {
  if (!config.is_object()) fail(place, ": expected an object");
  if (config.contains("n_embd") && config.contains("padded_vocab_size"))
    return lit_gpt_layout(config, place);
  if (config.contains("ssm_cfg") || (config.contains("d_model") && config.contains("n_layer")))
    return state_spaces_layout(config, place);
  if (config.contains("layers") || config.contains("d_model")) {
    Layout ours;
    ours.kind = "sambalm";
    ours.config = model_config(config, place);
    return ours;
  }
  const auto type = Keys(config, place).get<std::string>("model_type", "");
  if (type == "llama" || type == "mistral") return llama_layout(config, place, type);
  if (type == "mamba") return mamba_layout(config, place);
  if (type == "samba") return fla_samba_layout(config, place);
  if (type == "gla" || type == "retnet") return fla_linear_attention_layout(config, place, type);
  fail(place,
       ": expected a configuration of sambalm (layers), of microsoft/Samba (n_embd), of "
       "state-spaces/mamba (d_model, n_layer) or with a model_type of llama, mistral, mamba, "
       "samba, gla or retnet, found ",
       type.empty() ? "none of these keys" : "model_type \"" + type + "\"");
}

Json write_config(const ModelConfig& config, const std::string& kind) {
  if (kind == "lit_gpt") return lit_gpt_config(config);
  if (kind == "llama" || kind == "mistral") return llama_config(config, kind);
  if (kind == "mamba") return mamba_config(config);
  if (kind == "state_spaces") return state_spaces_config(config);
  if (kind == "samba") return fla_samba_config(config);
  return fla_linear_attention_config(config, kind);
}

/// Replaces zeros that stand for a rule by what it gives, in a complete entry.
void resolve(Json& layer, Index d) {
  const auto otherwise = [&](const char* key, Index value) {
    if (layer.contains(key) && layer.at(key) == 0) layer[key] = value;
  };
  if (layer.at("type") == "attention") {
    otherwise("kv_heads", layer.at("heads").get<Index>());
    otherwise("head_width", d / layer.at("heads").get<Index>());
    if (layer.at("rope") == false) layer["rope_base"] = 10000.0;  // not read
  } else if (layer.at("type") == "mamba") {
    otherwise("dt_rank", (d + 15) / 16);
  } else if (layer.at("type") == "mega_s6") {
    otherwise("dt_rank", (d + 31) / 32);
  } else if (layer.at("type") == "parallel") {
    for (Json& inner : layer.at("layers")) resolve(inner, d);
  }
}

/// The list with every key of every layer.
std::vector<Json> resolved_layers(const ModelConfig& config) {
  Stream stream(1, Tier::plain);
  std::vector<Json> layers = Model(config, stream, DType::f32).config().layers;
  for (Json& layer : layers) resolve(layer, config.d_model);
  return layers;
}

}  // namespace

Layout layout_of(const Json& config, const std::string& place) {
  Layout layout = recognise(config, place);
  layout.config.place = place;
  return layout;
}

std::vector<std::string> layout_kinds() {
  return {"sambalm",      "lit_gpt", "llama", "mistral", "mamba",
          "state_spaces", "samba",   "gla",   "retnet"};
}

Json published_config(const ModelConfig& config, const std::string& kind) {
  const std::vector<std::string> kinds = layout_kinds();
  if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) {
    std::string known;
    for (const std::string& name : kinds) known += (known.empty() ? "" : ", ") + name;
    fail("no such layout: ", kind, "; expected one of ", known);
  }
  ModelConfig model = config;
  model.layers = resolved_layers(config);
  if (kind == "sambalm") return json_of(model);
  const Json written = write_config(model, kind);
  const std::string place = "as " + kind;
  Layout read;
  try {
    read = layout_of(written, place);
  } catch (const Error& error) {
    fail(config.place, ": the layout ", kind, " cannot express this model: ", error.what());
  }
  const auto differs = [&](const std::string& what, const Json& found, const Json& expected) {
    fail(config.place, ": the layout ", kind, " cannot express this model: ", what, ": expected ",
         expected.dump(), ", found ", found.dump());
  };
  const std::vector<Json> theirs = resolved_layers(read.config);
  for (std::size_t i = 0; i < std::max(model.layers.size(), theirs.size()); ++i) {
    const Json ours = i < model.layers.size() ? model.layers[i] : Json("no more layers");
    const Json expected = i < theirs.size() ? theirs[i] : Json("no more layers");
    if (ours != expected) differs(text_of("layers[", i, ']'), ours, expected);
  }
  if (read.config.norm_eps != model.norm_eps)
    differs("norm_eps", model.norm_eps, read.config.norm_eps);
  if (read.config.vocab != model.vocab) differs("vocab", model.vocab, read.config.vocab);
  if (read.config.tied != model.tied) differs("tied", model.tied, read.config.tied);
  return written;
}

bool is_buffer(const std::string& tensor) {
  return tensor.find(".rotary_emb.inv_freq") != std::string::npos ||
         tensor.find(".rel_pos_bias._float_tensor") != std::string::npos;
}

}  // namespace samba
