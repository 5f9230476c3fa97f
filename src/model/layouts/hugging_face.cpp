#include "model/layouts/builder.h"
#include "model/layouts/layouts.h"

namespace samba {
namespace {

/// The base of the rotation: older files have it at the top, newer ones in "rope_parameters".
double rope_base(const Keys& keys) {
  double base = keys.get("rope_theta", 10000.0);
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!keys.has(key)) continue;
    const Keys inner(keys.at(key), keys.place() + ": " + key);
    for (const char* type : {"rope_type", "type"})
      inner.expect<std::string>(type, "default", "default");
    base = inner.get("rope_theta", base);
  }
  return base;
}

}  // namespace

Layout llama_layout(const Json& config, const std::string& place, const std::string& kind) {
  const Keys keys(config, place);
  Layout layout;
  layout.kind = kind;
  ModelConfig& c = layout.config;
  const bool mistral = kind == "mistral";
  const Index d = keys.count("hidden_size"), heads = keys.count("num_attention_heads");
  const Index groups = keys.count("num_key_value_heads",
                                  mistral && !config.contains("num_key_value_heads") ? 8 : heads);
  const Index d_ff = keys.count("intermediate_size");
  const Index width = keys.count("head_dim", d / heads);
  keys.expect<std::string>("hidden_act", "silu", "silu");
  // A bias of the attention is on its output too, which ours has none of.
  keys.expect("attention_bias", false, false);
  keys.expect("mlp_bias", false, false);
  // A Mistral file without the key means the class's default, one with null no window.
  const bool windowed =
      mistral && (!config.contains("sliding_window") || keys.has("sliding_window"));
  c.name = kind;
  c.vocab = keys.count("vocab_size");
  c.d_model = d;
  c.context = keys.count("max_position_embeddings", 4096);
  c.norm_eps = keys.get("rms_norm_eps", 1e-6);
  c.tied = keys.get("tie_word_embeddings", false);
  c.init = "neox";
  Builder b(layout);
  for (Index i = 0; i < layer_count(keys, "num_hidden_layers"); ++i) {
    const std::string at = text_of("model.layers.", i, '.');
    b.attention(at + "input_layernorm.weight",
                {d, heads, groups, width, windowed ? keys.count("sliding_window", 4096) : 0,
                 rope_base(keys)},
                at + "self_attn.");
    b.swiglu(at + "post_attention_layernorm.weight", d_ff, d, at + "mlp.gate_proj.weight",
             at + "mlp.up_proj.weight", at + "mlp.down_proj.weight");
  }
  b.ends("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight");
  return layout;
}

Json llama_config(const ModelConfig& c, const std::string& kind) {
  const bool mistral = kind == "mistral";
  const Json attention = first_of(c, "attention");
  const double base = attention.value("rope_base", 10000.0);
  Json config = {{"architectures", {mistral ? "MistralForCausalLM" : "LlamaForCausalLM"}},
                 {"model_type", kind},
                 {"vocab_size", c.vocab},
                 {"hidden_size", c.d_model},
                 {"intermediate_size", mlp_width(c)},
                 {"num_hidden_layers", static_cast<Index>(c.layers.size()) / 2},
                 {"num_attention_heads", attention.value("heads", Index{1})},
                 {"num_key_value_heads", attention.value("kv_heads", Index{1})},
                 {"head_dim", attention.value("head_width", Index{1})},
                 {"hidden_act", "silu"},
                 {"max_position_embeddings", c.context},
                 {"rms_norm_eps", c.norm_eps},
                 {"tie_word_embeddings", c.tied},
                 {"attention_bias", false},
                 {"mlp_bias", false},
                 // Older readers look for the base at the top, newer ones inside.
                 {"rope_theta", base},
                 {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", base}}}};
  if (mistral) config["sliding_window"] = attention.value("window", Json());
  return config;
}

Layout mamba_layout(const Json& config, const std::string& place) {
  const Keys keys(config, place);
  Layout layout;
  layout.kind = "mamba";
  ModelConfig& c = layout.config;
  const Index d = keys.count("hidden_size"), expand = keys.count("expand", 2);
  keys.expect<Index>("intermediate_size", expand * d, expand * d);
  keys.expect("use_bias", false, false);
  keys.expect<std::string>("hidden_act", "silu", "silu");
  // "auto" stands for the default rank.
  const bool named = keys.has("time_step_rank") && !keys.at("time_step_rank").is_string();
  const Index rank = named ? keys.count("time_step_rank") : (d + 15) / 16;
  c.name = "mamba";
  c.vocab = keys.count("vocab_size");
  c.d_model = d;
  c.norm_eps = keys.get("layer_norm_epsilon", 1e-5);
  c.tied = keys.get("tie_word_embeddings", true);
  const Builder::MambaShape shape{
      d,    keys.count("state_size", 16),   keys.count("conv_kernel", 4), expand,
      rank, keys.get("use_conv_bias", true)};
  Builder b(layout);
  for (Index i = 0; i < layer_count(keys, "num_hidden_layers"); ++i) {
    const std::string at = text_of("backbone.layers.", i, '.');
    b.mamba(at + "norm.weight", shape, at + "mixer.");
  }
  b.ends("backbone.embeddings.weight", "backbone.norm_f.weight", "lm_head.weight");
  return layout;
}

Json mamba_config(const ModelConfig& c) {
  const Json mamba = first_of(c, "mamba");
  const Index expand = mamba.value("expand", Index{2});
  return {{"architectures", {"MambaForCausalLM"}},
          {"model_type", "mamba"},
          {"vocab_size", c.vocab},
          {"hidden_size", c.d_model},
          {"intermediate_size", expand * c.d_model},
          {"num_hidden_layers", static_cast<Index>(c.layers.size())},
          {"state_size", mamba.value("d_state", Index{16})},
          {"conv_kernel", mamba.value("d_conv", Index{4})},
          {"expand", expand},
          {"time_step_rank", mamba.value("dt_rank", (c.d_model + 15) / 16)},
          {"use_bias", false},
          {"use_conv_bias", mamba.value("conv_bias", true)},
          {"hidden_act", "silu"},
          {"layer_norm_epsilon", c.norm_eps},
          {"residual_in_fp32", true},
          {"tie_word_embeddings", c.tied}};
}

Layout state_spaces_layout(const Json& config, const std::string& place) {
  const Keys keys(config, place);
  Layout layout;
  layout.kind = "state_spaces";
  ModelConfig& c = layout.config;
  const Index d = keys.count("d_model");
  const Json none = Json::object();
  const Keys ssm(keys.has("ssm_cfg") ? keys.at("ssm_cfg") : none, place + ": ssm_cfg");
  ssm.expect<std::string>("layer", "Mamba1", "Mamba1");
  ssm.expect("bias", false, false);
  keys.expect("rms_norm", true, true);
  keys.expect<Index>("d_intermediate", 0, 0);
  if (keys.has("attn_layer_idx") && !keys.at("attn_layer_idx").empty())
    fail(place, ": attn_layer_idx: expected none, found ", keys.at("attn_layer_idx").dump(),
         ", which this version cannot run");
  const Index multiple = keys.count("pad_vocab_size_multiple", 8);
  c.name = "mamba";
  c.vocab = (keys.count("vocab_size") + multiple - 1) / multiple * multiple;
  c.d_model = d;
  c.tied = keys.get("tie_embeddings", true);
  const bool named = ssm.has("dt_rank") && !ssm.at("dt_rank").is_string();
  const Builder::MambaShape shape{d,
                                  ssm.count("d_state", 16),
                                  ssm.count("d_conv", 4),
                                  ssm.count("expand", 2),
                                  named ? ssm.count("dt_rank") : (d + 15) / 16,
                                  ssm.get("conv_bias", true)};
  Builder b(layout);
  for (Index i = 0; i < layer_count(keys, "n_layer"); ++i) {
    const std::string at = text_of("backbone.layers.", i, '.');
    b.mamba(at + "norm.weight", shape, at + "mixer.");
  }
  b.ends("backbone.embedding.weight", "backbone.norm_f.weight", "lm_head.weight");
  return layout;
}

Json state_spaces_config(const ModelConfig& c) {
  const Json mamba = first_of(c, "mamba");
  return {{"d_model", c.d_model},
          {"n_layer", static_cast<Index>(c.layers.size())},
          {"vocab_size", c.vocab},
          {"ssm_cfg",
           {{"d_state", mamba.value("d_state", Index{16})},
            {"d_conv", mamba.value("d_conv", Index{4})},
            {"expand", mamba.value("expand", Index{2})},
            {"dt_rank", mamba.value("dt_rank", (c.d_model + 15) / 16)},
            {"conv_bias", mamba.value("conv_bias", true)}}},
          {"rms_norm", true},
          {"residual_in_fp32", true},
          {"fused_add_norm", true},
          {"pad_vocab_size_multiple", 1},
          {"tie_embeddings", c.tied}};
}

}  // namespace samba
