#include "model/layout.h"

#include <algorithm>

#include "core/error.h"
#include "core/fields.h"

namespace samba {
namespace {

/// Reads keys of a published configuration. A key that is absent or null has its class's default.
class Keys {
 public:
  Keys(const Json& object, const std::string& place) : object_(object), place_(place) {}

  bool has(const char* key) const { return object_.contains(key) && !object_.at(key).is_null(); }

  template <class T>
  T get(const char* key, T standard) const {
    if (!has(key)) return standard;
    JsonFields fields(object_, place_);
    fields(key, standard, "");
    return standard;
  }

  /// A size: at least 1, and no larger than products of a few of them can bear.
  Index count(const char* key, Index standard = -1) const {
    const Index value = get<Index>(key, standard);
    if (!has(key) && value < 1)
      fail(place_, ": ", key, ": expected 1 to ", kLargestSize, ", found nothing");
    expect_size(place_, key, value);
    return value;
  }

  /// Refuses a value that our layers cannot express.
  template <class T>
  void expect(const char* key, const T& only, const T& standard) const {
    const T value = get<T>(key, standard);
    if (value != only)
      fail(place_, ": ", key, ": expected ", Json(only).dump(), ", found ", Json(value).dump(),
           ", which this version cannot run");
  }

  const Json& at(const char* key) const { return object_.at(key); }
  const std::string& place() const { return place_; }

 private:
  const Json& object_;
  std::string place_;
};

Index layer_count(const Keys& keys, const char* key, Index standard = -1) {
  constexpr Index kMost = 10'000;
  const Index count = keys.count(key, standard);
  if (count > kMost) fail(keys.place(), ": ", key, ": expected at most ", kMost, ", found ", count);
  return count;
}

/// Collects a layout's residual steps and their weights.
class Builder {
 public:
  explicit Builder(Layout& layout) : layout_(layout) {}

  /// Our parameter `name` of the current step is the whole of `tensor`.
  void whole(const std::string& tensor, const std::string& name, Index rows) {
    rows_of(tensor, 0, name, 0, rows);
  }
  void rows_of(const std::string& tensor, Index tensor_row, const std::string& name, Index row,
               Index rows) {
    constexpr std::size_t kMost = std::size_t{1} << 18;  // no model has more; numbers may claim so
    if (layout_.pieces.size() >= kMost)
      fail(layout_.kind, ": expected at most ", kMost, " pieces of tensors, found more");
    layout_.pieces.push_back({tensor, tensor_row, scope_ + name, row, rows});
  }

  /// Begins the next step, or, in between begin_parallel and end_parallel, the next layer of it. A
  /// layer that norms its input itself, or one inside a parallel step, has no `norm`.
  void step(Json entry, const std::string& norm = "") {
    if (parallel_) {
      Json& list = layout_.config.layers.back()["layers"];
      scope_ = text_of("layers.", layout_.config.layers.size() - 1, '.', list.size(), '.');
      list.push_back(std::move(entry));
      return;
    }
    scope_ = text_of("layers.", layout_.config.layers.size(), '.');
    layout_.config.layers.push_back(std::move(entry));
    if (!norm.empty()) whole(norm, "norm.weight", 1);
  }

  /// Begins a step of layers that share the norm.
  void begin_parallel(const std::string& norm) {
    step({{"type", "parallel"}, {"layers", Json::array()}}, norm);
    parallel_ = true;
  }
  void end_parallel() { parallel_ = false; }

  void swiglu(const std::string& norm, Index d_ff, Index d_model, const std::string& gate,
              const std::string& up, const std::string& down) {
    step({{"type", "swiglu"}, {"d_ff", d_ff}}, norm);
    rows_of(gate, 0, "gate_up.weight", 0, d_ff);
    rows_of(up, 0, "gate_up.weight", d_ff, d_ff);
    whole(down, "down.weight", d_model);
  }

  struct MambaShape {
    Index d_model, d_state, d_conv, expand, dt_rank;
    bool conv_bias;
  };
  void mamba(const std::string& norm, const MambaShape& m, const std::string& at) {
    step({{"type", "mamba"},
          {"d_state", m.d_state},
          {"d_conv", m.d_conv},
          {"expand", m.expand},
          {"dt_rank", m.dt_rank},
          {"conv_bias", m.conv_bias}},
         norm);
    const Index inner = m.expand * m.d_model;
    whole(at + "in_proj.weight", "in_proj.weight", 2 * inner);
    whole(at + "conv1d.weight", "conv.weight", inner);
    if (m.conv_bias) whole(at + "conv1d.bias", "conv.bias", 1);
    whole(at + "x_proj.weight", "x_proj.weight", m.dt_rank + 2 * m.d_state);
    whole(at + "dt_proj.weight", "dt_proj.weight", inner);
    whole(at + "dt_proj.bias", "dt_proj.bias", 1);
    whole(at + "A_log", "a_log", inner);
    whole(at + "D", "d", 1);
    whole(at + "out_proj.weight", "out_proj.weight", m.d_model);
  }

  void ends(const std::string& embedding, const std::string& norm, const std::string& head) {
    scope_.clear();
    whole(embedding, "embedding.weight", layout_.config.vocab);
    whole(norm, "norm.weight", 1);
    if (layout_.config.tied)
      layout_.aliases[head] = embedding;
    else
      whole(head, "head.weight", layout_.config.vocab);
  }

 private:
  Layout& layout_;
  std::string scope_;
  bool parallel_ = false;
};

/// microsoft/Samba, lit_gpt/config.py and model.py.
class LitGpt {
 public:
  LitGpt(const Json& config, const std::string& place) : keys_(config, place), b_(layout_) {
    layout_.kind = "lit_gpt";
    ModelConfig& c = layout_.config;
    pure_mamba_ = keys_.get("mamba", false);
    d_ = keys_.count("n_embd");
    c.name = keys_.get<std::string>("name", "lit_gpt");
    c.vocab = keys_.count("padded_vocab_size");
    c.d_model = d_;
    c.context = keys_.count("block_size", 4096);
    c.norm_eps = keys_.get("norm_eps", 1e-5);
    c.tied = pure_mamba_ || keys_.get("mamba_init", false);
    c.init = c.tied ? "mamba" : "neox";
    keys_.expect<Index>("condense_ratio", 1, 1);
    for (const char* key : {"ret_per_layer", "gla_per_layer"}) keys_.expect<Index>(key, -1, -1);
    if (!pure_mamba_) {
      read_residual();
      keys_.expect("bias", false, true);
      keys_.expect<std::string>("_mlp_class", "LLaMAMLP", "GptNeoxMLP");
      keys_.expect("mlp", true, true);
      const auto norm = keys_.get<std::string>("_norm_class", "LayerNorm");
      if (norm != "FusedRMSNorm" && norm != "RMSNorm")
        fail(keys_.place(), ": _norm_class: expected FusedRMSNorm or RMSNorm, found ", norm);
      read_attention_positions();
    }
    for (Index i = 0; i < layer_count(keys_, "n_layer", 16); ++i) block(i);
    b_.ends("transformer.wte.weight", "transformer.ln_f.weight", "lm_head.weight");
  }

  Layout take() { return std::move(layout_); }

 private:
  /// Whether mixer and MLP of a block run side by side: the published code knows that with one norm
  /// for both, and one norm only so.
  void read_residual() {
    parallel_ = keys_.get("parallel_residual", true);
    if (keys_.get("shared_attention_norm", false) != parallel_)
      fail(keys_.place(),
           ": parallel_residual: expected the value of shared_attention_norm, found ",
           parallel_ ? "true" : "false", ", which this version cannot run");
    for (const char* key : {"use_mega", "mamba_swa_mlp"})
      if (parallel_) keys_.expect(key, false, false);
  }

  void read_attention_positions() {
    if (!keys_.has("attn_layer_pos")) return;
    const auto text = keys_.get<std::string>("attn_layer_pos", "");
    const Json list = parse_json(text, keys_.place() + ": attn_layer_pos");
    if (!list.is_array()) fail(keys_.place(), ": attn_layer_pos: expected a list, found ", text);
    has_positions_ = true;
    for (const Json& position : list) {
      if (!position.is_number_integer())
        fail(keys_.place(), ": attn_layer_pos: expected whole numbers, found ", text);
      positions_.push_back(position.get<Index>());
    }
  }

  bool is_mamba(Index i) const {
    if (has_positions_)
      return std::find(positions_.begin(), positions_.end(), i) == positions_.end();
    const Index every = keys_.get<Index>("mb_per_layer", -1);
    return every > 0 && i % every == 0;
  }

  void block(Index i) {
    const std::string at = text_of("transformer.h.", i, '.');
    const Builder::MambaShape mamba{d_, 16, 4, 2, (d_ + 15) / 16, true};
    if (pure_mamba_) return b_.mamba(at + "norm.weight", mamba, at + "mixer.");
    if (parallel_) b_.begin_parallel(at + "norm_1.weight");
    // In the order of the published code: what is named first makes the others' keys without
    // effect.
    if (keys_.get("mamba_swa_mlp", false)) {
      b_.mamba(at + "norm_m.weight", mamba, at + "mb.");
      attention(i, at, "norm_attn.weight");
    } else if (keys_.get("use_mega", false)) {
      mega(at + "attn.");
    } else if (!is_mamba(i)) {
      attention(i, at, "norm_1.weight");
    } else if (keys_.get("abl_mamba", false)) {
      swiglu(at, "norm_1.weight", 2 * d_, "attn.");
    } else {
      b_.mamba(at + "norm_1.weight", mamba, at + "attn.");
    }
    swiglu(at, "norm_2.weight", keys_.count("intermediate_size", 4 * d_), "mlp.");
    b_.end_parallel();
  }

  void mega(const std::string& at) {
    // Sizes of the published class, which its configurations do not name.
    constexpr Index kZ = 128, kState = 16, kTaps = 4;
    const Index rank = (d_ + 31) / 32;
    b_.step({{"type", "mega_s6"},
             {"chunk", keys_.count("mega_chunk", 2048)},
             {"z_width", kZ},
             {"d_state", kState},
             {"d_conv", kTaps},
             {"dt_rank", rank}});
    const auto projection = [&](const char* theirs, const std::string& ours, Index rows) {
      b_.whole(at + theirs + ".weight", ours + ".weight", rows);
      b_.whole(at + theirs + ".bias", ours + ".bias", 1);
    };
    b_.whole(at + "norm.weight", "norm.weight", 1);
    projection("v_proj", "v_proj", d_);
    projection("mx_proj", "m_proj", 3 * d_ + kZ);
    projection("h_proj", "h_proj", d_);
    b_.whole(at + "gamma", "gamma", 2);
    b_.whole(at + "beta", "beta", 2);
    b_.rows_of(at + "rel_pos_bias.alpha", 0, "position_bias", 0, 1);
    b_.rows_of(at + "rel_pos_bias.beta", 0, "position_bias", 1, 1);
    projection("move.conv1d", "conv", d_);
    b_.whole(at + "move.x_proj.weight", "x_proj.weight", rank + 2 * kState);
    projection("move.dt_proj", "dt_proj", d_);
    b_.whole(at + "move.A_log", "a_log", d_);
    b_.whole(at + "move.D", "d", 1);
  }

  void swiglu(const std::string& at, const char* norm, Index d_ff, const std::string& scope) {
    const std::string matrices = at + scope + "swiglu.";
    b_.swiglu(at + norm, d_ff, d_, matrices + "w1.weight", matrices + "w2.weight",
              matrices + "w3.weight");
  }

  void attention(Index i, const std::string& at, const char* norm) {
    const bool rope = !keys_.get("nope", false);
    if (rope) keys_.expect("rotary_percentage", 1.0, 0.25);
    const Index heads = keys_.count("n_head", 32), groups = keys_.count("n_query_groups", heads);
    if (d_ % heads != 0 || heads % groups != 0)
      fail(keys_.place(), ": n_head: expected a divisor of n_embd = ", d_,
           " and a multiple of n_query_groups = ", groups, ", found ", heads);
    const Index window = keys_.get<Index>("local_window", -1);
    if (window != -1) keys_.count("local_window");
    const Index period = keys_.count("full_per_layer", 1'000'000);
    const bool full = window < 0 || i % period >= period - 1;
    const Index width = d_ / heads, queries = heads / groups;
    Json entry = {{"type", "attention"},
                  {"heads", heads},
                  {"kv_heads", groups},
                  {"head_width", width},
                  {"rope", rope}};
    if (!full) entry["window"] = window;
    const bool short_conv = keys_.get("sc_attn", false);
    if (short_conv) entry["short_conv"] = 4;
    b_.step(std::move(entry), at + norm);
    if (short_conv) {
      const Index q = heads * width, kv = groups * width;
      b_.rows_of(at + "attn.q_conv1d.weight", 0, "conv.weight", 0, q);
      b_.rows_of(at + "attn.k_conv1d.weight", 0, "conv.weight", q, kv);
      b_.rows_of(at + "attn.v_conv1d.weight", 0, "conv.weight", q + kv, kv);
    }
    // The fused rows are ordered by group: its queries, its key, its value. Ours: all queries, all
    // keys, all values.
    const std::string fused = at + "attn.attn.weight";
    for (Index g = 0; g < groups; ++g) {
      const Index from = g * (queries + 2) * width;
      b_.rows_of(fused, from, "qkv.weight", g * queries * width, queries * width);
      b_.rows_of(fused, from + queries * width, "qkv.weight", (heads + g) * width, width);
      b_.rows_of(fused, from + (queries + 1) * width, "qkv.weight", (heads + groups + g) * width,
                 width);
    }
    b_.whole(at + "attn.proj.weight", "out.weight", d_);
  }

  Layout layout_;
  Keys keys_;
  Builder b_;
  Index d_ = 0;
  bool pure_mamba_ = false;
  bool parallel_ = false;
  bool has_positions_ = false;
  std::vector<Index> positions_;
};

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

/// Hugging Face LlamaForCausalLM and MistralForCausalLM.
Layout llama(const Json& config, const std::string& place, const std::string& kind) {
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
    Json entry = {{"type", "attention"},
                  {"heads", heads},
                  {"kv_heads", groups},
                  {"head_width", width},
                  {"rope_base", rope_base(keys)}};
    if (windowed) entry["window"] = keys.count("sliding_window", 4096);
    b.step(std::move(entry), at + "input_layernorm.weight");
    b.rows_of(at + "self_attn.q_proj.weight", 0, "qkv.weight", 0, heads * width);
    b.rows_of(at + "self_attn.k_proj.weight", 0, "qkv.weight", heads * width, groups * width);
    b.rows_of(at + "self_attn.v_proj.weight", 0, "qkv.weight", (heads + groups) * width,
              groups * width);
    b.whole(at + "self_attn.o_proj.weight", "out.weight", d);
    b.swiglu(at + "post_attention_layernorm.weight", d_ff, d, at + "mlp.gate_proj.weight",
             at + "mlp.up_proj.weight", at + "mlp.down_proj.weight");
  }
  b.ends("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight");
  return layout;
}

/// Hugging Face MambaForCausalLM.
Layout mamba(const Json& config, const std::string& place) {
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

Layout recognise(const Json& config, const std::string& place) {
  if (!config.is_object()) fail(place, ": expected an object");
  if (config.contains("layers") || config.contains("d_model"))
    return {"sambalm", model_config(config, place), {}, {}};
  if (config.contains("n_embd") && config.contains("padded_vocab_size"))
    return LitGpt(config, place).take();
  const auto type = Keys(config, place).get<std::string>("model_type", "");
  if (type == "llama" || type == "mistral") return llama(config, place, type);
  if (type == "mamba") return mamba(config, place);
  fail(place,
       ": expected a configuration of sambalm (layers), of microsoft/Samba (n_embd) or of "
       "Hugging Face (model_type llama, mistral or mamba), found ",
       type.empty() ? "none of these keys" : "model_type \"" + type + "\"");
}

}  // namespace

Layout layout_of(const Json& config, const std::string& place) {
  Layout layout = recognise(config, place);
  layout.config.place = place;
  return layout;
}

bool is_buffer(const std::string& tensor) {
  return tensor.find(".rotary_emb.inv_freq") != std::string::npos ||
         tensor.find(".rel_pos_bias._float_tensor") != std::string::npos;
}

}  // namespace samba
