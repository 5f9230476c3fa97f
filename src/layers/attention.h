#pragma once

#include <optional>

#include "kernels/attention.h"
#include "layers/linear.h"

namespace samba {

/// Causal attention with grouped queries, full or within a sliding window. Ainslie et al. 2023,
/// "GQA"; Beltagy et al. 2020, "Longformer"; Su et al. 2021, "RoFormer" (positions).
///
///   q, k, v = x W_qkvᵀ + b_qkv                          [N, H K], [N, G K], [N, G K]
///   q, k, v = silu(conv(q, k, v))                       with short_conv: causal, depthwise
///   q, k    = rope(q), rope(k)
///   a_i     = sum_j softmax_j(q_i . k_j / sqrt(K)) v_j   i - window < j <= i
///   out     = a W_outᵀ                                  [N, D]
///
/// A sequence's state is the keys and the values of its last `window` tokens; without a window, of
/// all tokens up to the context that the states were made for. With short_conv also the last
/// short_conv - 1 rows of q, k and v before the convolution. The short convolution: Ren et al.
/// 2024, "Samba", table 10.
///
/// With extend_group G full attention reads beyond the context that it was trained on, without
/// training: the last W = extend_window keys stand at their own positions, earlier ones at those of
/// groups, floor(j / G) for a key and floor(i / G) + W - floor(W / G) for a query. Jin et al. 2024,
/// "LLM Maybe LongLM: Self-Extend", algorithm 1. For inference only.
class Attention final : public Layer {
 public:
  struct Config {
    Index heads = 0;
    Index kv_heads = 0;
    Index head_width = 0;
    std::optional<Index> window;
    bool rope = true;
    double rope_base = 10000;
    bool qkv_bias = false;
    Index short_conv = 0;
    Index extend_group = 0;
    Index extend_window = 0;

    void fields(auto& f) {
      f("heads", heads, "query heads H");
      f("kv_heads", kv_heads, "key-value heads G, a divisor of heads; 0: as many as heads");
      f("head_width", head_width, "width K of a head; 0: d_model / heads");
      f("window", window, "keys that a query sees, its own among them; without: all");
      f("rope", rope, "rotate queries and keys by their position");
      f("rope_base", rope_base, "base of the rotation's wavelengths");
      f("qkv_bias", qkv_bias, "queries, keys and values have biases");
      f("short_conv", short_conv,
        "taps of a causal convolution and SiLU on queries, keys and values; 0: none");
      f("extend_group", extend_group,
        "Self-Extend: distant tokens that share a position; 0: every token has its own");
      f("extend_window", extend_window, "Self-Extend: last keys that keep their own positions");
    }
  };

  Attention(const Config&, Index d_model, Plan);
  void forward(Pass&, const Input& x, const Output& y) override;
  void backward(Pass&, ConstView x, ConstView dy, View dx) override;
  void drop() override { saved_ = {}; }
  double flops(Index position, Index length) const override;
  bool repeats() const override { return group_ == 0; }
  bool mixes() const override { return true; }

 private:
  struct Saved {
    Matrix raw;  ///< [N, (H + 2G) K] before the short convolution, empty without one
    Matrix qkv;  ///< [N, (H + 2G) K], queries and keys rotated
    Matrix a;    ///< [N, H K]
    Matrix lse;  ///< [N, H]
  };
  struct Parts {
    View q, k, v;
  };
  /// The columns of a [N, (H + 2G) K] matrix.
  Parts parts(View qkv) const;
  /// The rotation of the queries and keys of a [N, (H + 2G) K] matrix; of nothing without rope.
  op::Rope rotation(Pass&, View qkv, bool inverse) const;
  double scale() const;
  /// What Self-Extend's distant keys add to a, where `raw` holds queries, keys and values that are
  /// not rotated; lse is that of the near keys.
  void add_distant(Pass&, View raw, View a, ConstView lse);

  op::Heads heads_;
  Index window_;
  Index group_;  ///< of Self-Extend, whose window then is window_; 0: none
  bool rope_;
  double rope_base_;
  Linear qkv_;
  Parameter* conv_w_;  ///< null: no short convolution
  Linear out_;
  StateId keys_;
  StateId values_;
  StateId conv_state_ = 0;
  StateId late_ = 0;  ///< Self-Extend: keys and values that are still near
  StateId distant_keys_ = 0;
  StateId distant_values_ = 0;
  Saved saved_;
};

}  // namespace samba
