#include <algorithm>
#include <set>

#include "model/layouts/builder.h"
#include "model/layouts/layouts.h"

namespace samba {
namespace {

/// Width of the MLP: what the file says, or two thirds of ratio * width, in steps of 256.
Index standard_width(Index d, Index ratio) {
  constexpr Index kStep = 256;
  return (static_cast<Index>(static_cast<double>(d * ratio) * 2 / 3) + kStep - 1) / kStep * kStep;
}

/// "attn": one object or a list of them, {"layers": [1, 3], "num_heads": 4, ...}: the layers that
/// are attention.
class AttentionLayers {
 public:
  AttentionLayers(const Keys& keys, Index d, Index layers) : d_(d) {
    if (!keys.has("attn")) return;
    const Json& attn = keys.at("attn");
    const std::string at = keys.place() + ": attn";
    if (!attn.is_array()) add(attn, at, layers);
    for (std::size_t i = 0; attn.is_array() && i < attn.size(); ++i)
      add(attn[i], text_of(at, '[', i, ']'), layers);
  }

  /// Null where the layer is none of them.
  const Builder::AttentionShape* at(Index layer) const {
    const auto found = shapes_.find(layer);
    return found == shapes_.end() ? nullptr : &found->second;
  }

 private:
  void add(const Json& spec, const std::string& place, Index layers) {
    if (!spec.is_object()) fail(place, ": expected an object, found ", spec.dump());
    const Keys keys(spec, place);
    const Index heads = keys.count("num_heads"), groups = keys.count("num_kv_heads", heads);
    if (d_ % heads != 0 || heads % groups != 0)
      fail(place, ": num_heads: expected a divisor of hidden_size = ", d_,
           " and a multiple of num_kv_heads = ", groups, ", found ", heads);
    const Builder::AttentionShape shape{d_,
                                        heads,
                                        groups,
                                        d_ / heads,
                                        keys.has("window_size") ? keys.count("window_size") : 0,
                                        keys.get("rope_theta", 10000.0),
                                        keys.get("qkv_bias", false)};
    if (!keys.has("layers") || !keys.at("layers").is_array())
      fail(place, ": layers: expected a list of layer numbers");
    // A list for a deeper model is cut, as its library does.
    for (const Json& layer : keys.at("layers")) {
      if (!layer.is_number_integer())
        fail(place, ": layers: expected whole numbers, found ", layer.dump());
      if (const auto i = layer.get<Index>(); i >= 0 && i < layers)
        shapes_.insert_or_assign(i, shape);
    }
  }

  Index d_;
  std::map<Index, Builder::AttentionShape> shapes_;
};

void read_common(const Keys& keys, ModelConfig& c, const char* kind) {
  c.name = kind;
  c.vocab = keys.count("vocab_size", 32000);
  c.d_model = keys.count("hidden_size");
  c.context = keys.count("max_position_embeddings", 2048);
  c.tied = keys.get("tie_word_embeddings", false);
  const auto act = keys.get<std::string>("hidden_act", "swish");
  if (act != "swish" && act != "silu")
    fail(keys.place(), ": hidden_act: expected swish or silu, found ", act);
  if (keys.has("attnres_block_size"))
    fail(keys.place(), ": attnres_block_size: expected null, found ",
         keys.at("attnres_block_size").dump(), ", which this version cannot run");
}

/// "attn" for the layers that are attention: a list with an object for each kind of them.
Json attention_specs(const ModelConfig& config) {
  std::map<Json, Json> layers_of;
  Index layer = -1;
  for (const Json& entry : config.layers) {
    layer += entry.at("type") != "swiglu";
    if (entry.at("type") != "attention") continue;
    const Json spec = {{"num_heads", entry.at("heads")},
                       {"num_kv_heads", entry.at("kv_heads")},
                       {"qkv_bias", entry.at("qkv_bias")},
                       {"window_size", entry.value("window", Json())},
                       {"rope_theta", entry.at("rope_base")}};
    layers_of[spec].push_back(layer);
  }
  Json specs = Json::array();
  for (const auto& [spec, layers] : layers_of) {
    specs.push_back(spec);
    specs.back()["layers"] = layers;
  }
  if (specs.empty()) return Json();
  return specs.size() == 1 ? specs[0] : specs;
}

/// What the configurations of this library have in common.
Json common_config(const ModelConfig& c, const char* kind, const char* architecture) {
  return {{"architectures", {architecture}},
          {"model_type", kind},
          {"vocab_size", c.vocab},
          {"hidden_size", c.d_model},
          {"num_hidden_layers", static_cast<Index>(c.layers.size()) / 2},
          {"max_position_embeddings", c.context},
          {"norm_eps", c.norm_eps},
          {"tie_word_embeddings", c.tied},
          {"hidden_act", "swish"},
          {"attn", attention_specs(c)}};
}

/// The ratio that standard_width() turns into this width; null where none does.
Json ratio_of(Index d, Index d_ff) {
  for (Index ratio = 1; ratio <= 16; ++ratio)
    if (standard_width(d, ratio) == d_ff) return ratio;
  return Json();
}

void mlp(Builder& b, const std::string& at, Index d_ff, Index d) {
  b.swiglu(at + "mlp_norm.weight", d_ff, d, at + "mlp.gate_proj.weight", at + "mlp.up_proj.weight",
           at + "mlp.down_proj.weight");
}

}  // namespace

Layout fla_samba_layout(const Json& config, const std::string& place) {
  const Keys keys(config, place);
  Layout layout;
  layout.kind = "samba";
  ModelConfig& c = layout.config;
  read_common(keys, c, "samba");
  const Index d = c.d_model, layers = layer_count(keys, "num_hidden_layers", 18);
  const Index expand = keys.count("expand", 2);
  keys.expect<Index>("intermediate_size", expand * d, expand * d);  // that of a Mamba layer
  keys.expect("use_bias", false, false);
  c.norm_eps = keys.get("norm_eps", 1e-5);
  const bool named = keys.has("time_step_rank") && !keys.at("time_step_rank").is_string();
  const Builder::MambaShape mamba{d,
                                  keys.count("state_size", 16),
                                  keys.count("conv_kernel", 4),
                                  expand,
                                  named ? keys.count("time_step_rank") : (d + 15) / 16,
                                  keys.get("use_conv_bias", true)};
  const AttentionLayers attention(keys, d, layers);
  const Index d_ff = standard_width(d, keys.count("hidden_ratio", 4));
  Builder b(layout);
  for (Index i = 0; i < layers; ++i) {
    const std::string at = text_of("backbone.layers.", i, '.');
    if (const auto* shape = attention.at(i))
      b.attention(at + "mixer_norm.weight", *shape, at + "mixer.");
    else
      b.mamba(at + "mixer_norm.weight", mamba, at + "mixer.");
    mlp(b, at, d_ff, d);
  }
  b.ends("backbone.embeddings.weight", "backbone.norm_f.weight", "lm_head.weight");
  return layout;
}

Json fla_samba_config(const ModelConfig& c) {
  const Json mamba = first_of(c, "mamba");
  Json config = common_config(c, "samba", "SambaForCausalLM");
  const Index expand = mamba.value("expand", Index{2});
  config.update({{"state_size", mamba.value("d_state", Index{16})},
                 {"conv_kernel", mamba.value("d_conv", Index{4})},
                 {"expand", expand},
                 {"intermediate_size", expand * c.d_model},
                 {"time_step_rank", mamba.value("dt_rank", (c.d_model + 15) / 16)},
                 {"use_bias", false},
                 {"use_conv_bias", mamba.value("conv_bias", true)},
                 {"hidden_ratio", ratio_of(c.d_model, mlp_width(c))}});
  return config;
}

Layout fla_linear_attention_layout(const Json& config, const std::string& place,
                                   const std::string& kind) {
  const Keys keys(config, place);
  const bool gated = kind == "gla";
  Layout layout;
  layout.kind = kind;
  ModelConfig& c = layout.config;
  read_common(keys, c, kind.c_str());
  const Index d = c.d_model, layers = layer_count(keys, "num_hidden_layers", 24);
  c.norm_eps = keys.get("norm_eps", 1e-6);
  const Index heads = keys.count("num_heads", gated ? 4 : 8);
  if (keys.has("num_kv_heads")) keys.expect<Index>("num_kv_heads", heads, heads);
  for (const char* key : {"feature_map", "clamp_min"})
    if (keys.has(key))
      fail(place, ": ", key, ": expected null, found ", keys.at(key).dump(),
           ", which this version cannot run");
  for (const char* key : {"use_output_gate", "elementwise_affine"}) keys.expect(key, true, true);
  if (gated) {
    keys.expect("use_gk", true, true);
    keys.expect("use_gv", false, false);
  }
  const bool fused = keys.get("fuse_norm", true);
  const Builder::LinearAttentionShape linear{
      d,
      heads,
      keys.factor("expand_k", gated ? 0.5 : 1.0, d),
      keys.factor("expand_v", gated ? 1.0 : 2.0, d),
      keys.get("use_short_conv", false) ? keys.count("conv_size", 4) : 0,
      c.norm_eps,
      gated,
      fused ? "g_norm_swish_gate.weight" : "g_norm.weight"};
  const AttentionLayers attention(keys, d, layers);
  const Index d_ff = keys.has("intermediate_size")
                         ? keys.count("intermediate_size")
                         : standard_width(d, keys.count("hidden_ratio", gated ? 4 : 2));
  Builder b(layout);
  for (Index i = 0; i < layers; ++i) {
    const std::string at = text_of("model.layers.", i, '.');
    if (const auto* shape = attention.at(i))
      b.attention(at + "attn_norm.weight", *shape, at + "attn.");
    else
      b.linear_attention(at + "attn_norm.weight", linear, at + "attn.");
    mlp(b, at, d_ff, d);
  }
  b.ends("model.embeddings.weight", "model.norm.weight", "lm_head.weight");
  return layout;
}

Json fla_linear_attention_config(const ModelConfig& c, const std::string& kind) {
  const bool gated = kind == "gla";
  const Json linear = first_of(c, gated ? "gla" : "retention");
  Json config = common_config(c, kind.c_str(), gated ? "GLAForCausalLM" : "RetNetForCausalLM");
  const Index taps = linear.value("short_conv", Index{0});
  config.update({{"num_heads", linear.value("heads", Index{1})},
                 {"num_kv_heads", Json()},
                 {"expand_k", linear.value("expand_k", 1.0)},
                 {"expand_v", linear.value("expand_v", 1.0)},
                 {"use_short_conv", taps > 0},
                 {"conv_size", taps > 0 ? taps : 4},
                 {"feature_map", Json()},
                 {"use_output_gate", true},
                 {"elementwise_affine", true},
                 {"fuse_norm", true},
                 {"hidden_ratio", gated ? 4 : 2},
                 {"intermediate_size", mlp_width(c)}});
  if (gated) config.update({{"clamp_min", Json()}, {"use_gk", true}, {"use_gv", false}});
  return config;
}

}  // namespace samba
