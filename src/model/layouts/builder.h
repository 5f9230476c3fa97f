#pragma once

#include <string>

#include "core/error.h"
#include "core/fields.h"
#include "model/layout.h"

// What the published layouts are described with.

namespace samba {

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

  /// A width as a multiple of d: the factor.
  double factor(const char* key, double standard, Index d) const {
    const double value = get(key, standard), width = value * static_cast<double>(d);
    if (!(width >= 1 && width <= static_cast<double>(kLargestSize)))
      fail(place_, ": ", key, ": expected a multiple of the width ", d, " that gives 1 to ",
           kLargestSize, " columns, found ", value);
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

inline Index layer_count(const Keys& keys, const char* key, Index standard = -1) {
  constexpr Index kMost = 1024;
  const Index count = keys.count(key, standard);
  if (count > kMost) fail(keys.place(), ": ", key, ": expected at most ", kMost, ", found ", count);
  return count;
}

/// The first entry of a type in the model's list, or an empty object. Entries are complete.
inline Json first_of(const ModelConfig& config, const std::string& type) {
  for (const Json& layer : config.layers)
    if (layer.at("type") == type) return layer;
  return Json::object();
}

/// The width of the first MLP; 0 without one.
inline Index mlp_width(const ModelConfig& config) {
  return first_of(config, "swiglu").value("d_ff", Index{0});
}

/// Collects a layout's residual steps and their weights.
class Builder {
 public:
  explicit Builder(Layout& layout) : layout_(layout) {}

  /// Our parameter `name` of the current step is the whole of `tensor`, a matrix.
  void whole(const std::string& tensor, const std::string& name, Index rows) {
    rows_of(tensor, 0, name, 0, rows);
  }
  /// The same for a tensor of one dimension, a row of ours.
  void vector(const std::string& tensor, const std::string& name) {
    rows_of(tensor, 0, name, 0, 1);
    layout_.forms[tensor] = TensorForm::vector;
  }
  /// The taps of a depthwise convolution, [rows, 1, taps].
  void taps(const std::string& tensor, const std::string& name, Index row, Index rows) {
    rows_of(tensor, 0, name, row, rows);
    layout_.forms[tensor] = TensorForm::taps;
  }
  void rows_of(const std::string& tensor, Index tensor_row, const std::string& name, Index row,
               Index rows) {
    constexpr std::size_t kMost = std::size_t{1} << 18;  // no model has more; numbers may claim so
    if (layout_.pieces.size() >= kMost)
      fail(layout_.kind, ": expected at most ", kMost, " pieces of tensors, found more");
    layout_.pieces.push_back({tensor, tensor_row, scope_ + name, row, rows});
  }
  /// A tensor of one dimension that is a part of a row of ours.
  void columns(const std::string& tensor, const std::string& name, Index column, Index cols) {
    vector(tensor, name);
    layout_.pieces.back().column = column;
    layout_.pieces.back().cols = cols;
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
    if (!norm.empty()) vector(norm, "norm.weight");
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
    taps(at + "conv1d.weight", "conv.weight", 0, inner);
    if (m.conv_bias) vector(at + "conv1d.bias", "conv.bias");
    whole(at + "x_proj.weight", "x_proj.weight", m.dt_rank + 2 * m.d_state);
    whole(at + "dt_proj.weight", "dt_proj.weight", inner);
    vector(at + "dt_proj.bias", "dt_proj.bias");
    whole(at + "A_log", "a_log", inner);
    vector(at + "D", "d");
    whole(at + "out_proj.weight", "out_proj.weight", m.d_model);
  }

  /// Attention whose projections are tensors of their own: at + "q_proj.weight" and so on.
  struct AttentionShape {
    Index d_model, heads, kv_heads, head_width;
    Index window;  ///< 0: none
    double rope_base;
    bool qkv_bias = false;
  };
  void attention(const std::string& norm, const AttentionShape& a, const std::string& at) {
    Json entry = {{"type", "attention"},      {"heads", a.heads},
                  {"kv_heads", a.kv_heads},   {"head_width", a.head_width},
                  {"rope_base", a.rope_base}, {"qkv_bias", a.qkv_bias}};
    if (a.window > 0) entry["window"] = a.window;
    step(std::move(entry), norm);
    const Index q = a.heads * a.head_width, kv = a.kv_heads * a.head_width;
    rows_of(at + "q_proj.weight", 0, "qkv.weight", 0, q);
    rows_of(at + "k_proj.weight", 0, "qkv.weight", q, kv);
    rows_of(at + "v_proj.weight", 0, "qkv.weight", q + kv, kv);
    if (a.qkv_bias) {
      columns(at + "q_proj.bias", "qkv.bias", 0, q);
      columns(at + "k_proj.bias", "qkv.bias", q, kv);
      columns(at + "v_proj.bias", "qkv.bias", q + kv, kv);
    }
    whole(at + "o_proj.weight", "out.weight", a.d_model);
  }

  /// Gated linear attention or retention. Short convolutions are tensors of their own too.
  struct LinearAttentionShape {
    Index d_model, heads;
    double expand_k, expand_v;
    Index short_conv;
    double norm_eps;
    bool gated;
    const char* head_norm;  ///< "g_norm_swish_gate.weight"
  };
  void linear_attention(const std::string& norm, const LinearAttentionShape& a,
                        const std::string& at) {
    step({{"type", a.gated ? "gla" : "retention"},
          {"heads", a.heads},
          {"expand_k", a.expand_k},
          {"expand_v", a.expand_v},
          {"short_conv", a.short_conv},
          {"norm_eps", a.norm_eps}},
         norm);
    const auto keys = static_cast<Index>(a.expand_k * static_cast<double>(a.d_model));
    const auto values = static_cast<Index>(a.expand_v * static_cast<double>(a.d_model));
    rows_of(at + "q_proj.weight", 0, "qk.weight", 0, keys);
    rows_of(at + "k_proj.weight", 0, "qk.weight", keys, keys);
    rows_of(at + "v_proj.weight", 0, "vg.weight", 0, values);
    rows_of(at + "g_proj.weight", 0, "vg.weight", values, values);
    if (a.short_conv > 0) {
      taps(at + "q_conv1d.weight", "conv.weight", 0, keys);
      taps(at + "k_conv1d.weight", "conv.weight", keys, keys);
      taps(at + "v_conv1d.weight", "conv.weight", 2 * keys, values);
    }
    if (a.gated) {
      constexpr Index kRank = 16;
      whole(at + "gk_proj.0.weight", "gate_down.weight", kRank);
      whole(at + "gk_proj.1.weight", "gate_up.weight", keys);
      vector(at + "gk_proj.1.bias", "gate_up.bias");
    }
    vector(at + a.head_norm, "head_norm.weight");
    whole(at + "o_proj.weight", "out.weight", a.d_model);
  }

  void ends(const std::string& embedding, const std::string& norm, const std::string& head) {
    scope_.clear();
    whole(embedding, "embedding.weight", layout_.config.vocab);
    vector(norm, "norm.weight");
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

}  // namespace samba
