#include <algorithm>
#include <vector>

#include "model/layouts/builder.h"
#include "model/layouts/layouts.h"

namespace samba {
namespace {

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

  /// Whether block i is one of those that a period names. Listed positions win over periods.
  bool every(const char* key, Index i) const {
    const Index period = has_positions_ ? -1 : keys_.get<Index>(key, -1);
    return period > 0 && i % period == 0;
  }
  bool is_mamba(Index i) const {
    if (has_positions_)
      return std::find(positions_.begin(), positions_.end(), i) == positions_.end();
    return every("mb_per_layer", i);
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
    } else if (is_mamba(i) && keys_.get("abl_mamba", false)) {
      swiglu(at, "norm_1.weight", 2 * d_, "attn.");
    } else if (is_mamba(i)) {
      b_.mamba(at + "norm_1.weight", mamba, at + "attn.");
    } else if (every("ret_per_layer", i)) {
      linear_attention(at, keys_.count("n_head", 32) / 2, "n_head / 2", 1, 2, false);
    } else if (every("gla_per_layer", i)) {
      linear_attention(at, d_ / kGlaHead, "n_embd / 384", 0.5, 1, true);
    } else {
      attention(i, at, "norm_1.weight");
    }
    swiglu(at, "norm_2.weight", keys_.count("intermediate_size", 4 * d_), "mlp.");
    b_.end_parallel();
  }

  static constexpr Index kGlaHead = 384;  // channels of the stream for each head, gla_per_layer

  void linear_attention(const std::string& at, Index heads, const char* rule, double expand_k,
                        double expand_v, bool gated) {
    if (heads < 1 || static_cast<Index>(expand_k * static_cast<double>(d_)) % heads != 0)
      fail(keys_.place(), ": n_embd: expected a multiple of the linear attention's heads, ", rule,
           " = ", heads, ", found ", d_);
    constexpr double kEps = 1e-5;  // the published class has its own, whatever norm_eps says
    b_.linear_attention(at + "norm_1.weight",
                        {d_, heads, expand_k, expand_v, 0, kEps, gated, "g_norm_swish_gate.weight"},
                        at + "attn.");
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
      b_.vector(at + theirs + ".bias", ours + ".bias");
    };
    b_.vector(at + "norm.weight", "norm.weight");
    projection("v_proj", "v_proj", d_);
    projection("mx_proj", "m_proj", 3 * d_ + kZ);
    projection("h_proj", "h_proj", d_);
    b_.whole(at + "gamma", "gamma", 2);
    b_.whole(at + "beta", "beta", 2);
    b_.rows_of(at + "rel_pos_bias.alpha", 0, "position_bias", 0, 1);
    b_.rows_of(at + "rel_pos_bias.beta", 0, "position_bias", 1, 1);
    b_.taps(at + "move.conv1d.weight", "conv.weight", 0, d_);
    b_.vector(at + "move.conv1d.bias", "conv.bias");
    b_.whole(at + "move.x_proj.weight", "x_proj.weight", rank + 2 * kState);
    projection("move.dt_proj", "dt_proj", d_);
    b_.whole(at + "move.A_log", "a_log", d_);
    b_.vector(at + "move.D", "d");
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
      b_.taps(at + "attn.q_conv1d.weight", "conv.weight", 0, q);
      b_.taps(at + "attn.k_conv1d.weight", "conv.weight", q, kv);
      b_.taps(at + "attn.v_conv1d.weight", "conv.weight", q + kv, kv);
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

/// The configuration for a model of ours; keys without effect in it have the class's defaults.
class LitGptWriter {
 public:
  explicit LitGptWriter(const ModelConfig& config) : c_(config) {
    pure_ = all(c_.layers, "mamba");
    three_ = !pure_ && c_.layers.size() >= 3 && c_.layers.size() % 3 == 0 &&
             is(c_.layers[0], "mamba") && is(c_.layers[1], "attention");
    per_block_ = pure_ ? 1 : three_ ? 3 : 2;
    // A block's mixers; its last entry is the MLP.
    for (std::size_t i = 0; i < c_.layers.size(); ++i)
      if (per_block_ == 1 || (i + 1) % per_block_ != 0) mixers_.push_back(c_.layers[i]);
  }

  Json config() const {
    Json config = {
        {"org", "Microsoft"},
        {"name", c_.name},
        {"block_size", c_.context},
        {"vocab_size", c_.vocab},
        {"padding_multiple", 64},
        {"padded_vocab_size", c_.vocab},
        {"n_layer", c_.layers.size() / per_block_},
        {"n_embd", c_.d_model},
        {"mlp", true},
        {"bias", false},
        {"parallel_residual", false},
        {"shared_attention_norm", false},
        {"rms_norm", true},
        {"residual_in_fp32", true},
        {"fused_add_norm", true},
        {"mamba_init", c_.tied},
        {"_norm_class", "FusedRMSNorm"},
        {"norm_eps", c_.norm_eps},
        {"_mlp_class", "LLaMAMLP"},
        {"intermediate_size", pure_ ? 4 * c_.d_model : c_.layers.back().value("d_ff", Index{1})},
        {"condense_ratio", 1}};
    config.update(attention());
    config.update(pattern());
    return config;
  }

 private:
  static bool is(const Json& entry, const char* type) { return entry.at("type") == type; }
  static bool all(const std::vector<Json>& list, const char* type) {
    return std::all_of(list.begin(), list.end(), [&](const Json& e) { return is(e, type); });
  }
  static bool any(const std::vector<Json>& list, const char* type) {
    return std::any_of(list.begin(), list.end(), [&](const Json& e) { return is(e, type); });
  }

  /// The least period p such that exactly the blocks i with i % p == phase(p) are chosen; 0: none.
  template <class Chosen, class Phase>
  Index period_of(Chosen&& chosen, Phase&& phase) const {
    const auto count = static_cast<Index>(mixers_.size());
    for (Index p = 1; p <= count; ++p) {
      bool fits = true;
      for (Index i = 0; i < count && fits; ++i)
        fits = chosen(mixers_[static_cast<std::size_t>(i)]) == (i % p == phase(p));
      if (fits) return p;
    }
    return 0;
  }
  /// Of blocks of this type, the first among them; -1 where there are none.
  Index period(const char* type) const {
    if (!any(mixers_, type)) return -1;
    return period_of([&](const Json& e) { return is(e, type); }, [](Index) { return Index{0}; });
  }

  Json attention() const {
    const Json attention = first_of(c_, "attention");
    const Index heads =
        attention.value("heads", 2 * first_of(c_, "retention").value("heads", Index{1}));
    Index window = -1;
    bool full = false;
    for (const Json& mixer : mixers_) {
      if (!is(mixer, "attention")) continue;
      window = std::max(window, mixer.value("window", Index{-1}));
      full = full || !mixer.contains("window");
    }
    // Full attention among windowed ones: the last block of each period.
    constexpr Index kNever = 1'000'000;
    const auto is_full = [](const Json& e) { return is(e, "attention") && !e.contains("window"); };
    return {{"n_head", heads},
            {"n_query_groups", attention.value("kv_heads", heads)},
            {"rotary_percentage", 1.0},
            {"nope", !attention.value("rope", true)},
            {"sc_attn", attention.value("short_conv", Index{0}) > 0},
            {"local_window", window},
            {"full_per_layer",
             window > 0 && full ? period_of(is_full, [](Index p) { return p - 1; }) : kNever}};
  }

  Json pattern() const {
    const bool mlp2 = !pure_ && !three_ && any(mixers_, "swiglu");
    Index mamba_period = pure_ || three_ ? -1 : period(mlp2 ? "swiglu" : "mamba");
    Json positions;
    if (mamba_period == 0) {  // no period: the blocks of attention are listed
      std::string list;
      for (std::size_t i = 0; i < mixers_.size(); ++i)
        if (is(mixers_[i], "attention")) list += (list.empty() ? "" : ",") + std::to_string(i);
      positions = "[" + list + "]";
      mamba_period = -1;
    }
    return {{"mamba", pure_},
            {"mamba_swa_mlp", three_},
            {"abl_mamba", mlp2},
            {"use_mega", !mixers_.empty() && all(mixers_, "mega_s6")},
            {"mega_chunk", first_of(c_, "mega_s6").value("chunk", Index{2048})},
            {"mb_per_layer", mamba_period},
            {"ret_per_layer", period("retention")},
            {"gla_per_layer", period("gla")},
            {"attn_layer_pos", positions}};
  }

  const ModelConfig& c_;
  bool pure_;
  bool three_;  ///< Mamba, attention and MLP in every block
  std::size_t per_block_;
  std::vector<Json> mixers_;
};

}  // namespace

Json lit_gpt_config(const ModelConfig& c) {
  if (!first_of(c, "parallel").contains("layers")) return LitGptWriter(c).config();
  ModelConfig in_a_row = c;
  in_a_row.layers.clear();
  for (const Json& step : c.layers)
    for (const Json& layer : step.value("layers", Json::array({step})))
      in_a_row.layers.push_back(layer);
  Json config = LitGptWriter(in_a_row).config();
  config["parallel_residual"] = config["shared_attention_norm"] = true;
  return config;
}

Layout lit_gpt_layout(const Json& config, const std::string& place) {
  return LitGpt(config, place).take();
}

}  // namespace samba
