#include "model/layout.h"

#include <gtest/gtest.h>

#include <set>

#include "model/allocations.h"
#include "model/folder.h"
#include "support/shared.h"

namespace samba::test {
namespace {

/// A good configuration of each family, changed by a JSON merge patch (null removes a key).
Json changed(const char* base, const std::string& patch) {
  Json config = parse_json(base, "base");
  config.merge_patch(parse_json(patch, "patch"));
  return config;
}

constexpr const char* kLitGpt = R"({
  "name": "Samba", "block_size": 64, "padded_vocab_size": 256, "n_layer": 4, "n_head": 4, "n_embd": 64,
  "rotary_percentage": 1.0, "parallel_residual": false, "bias": false, "local_window": 16, "mlp": true,
  "full_per_layer": 1000000, "mb_per_layer": 2, "ret_per_layer": -1, "gla_per_layer": -1,
  "nope": false, "mamba": false, "sc_attn": false, "mamba_init": true, "use_mega": false,
  "abl_mamba": false, "mamba_swa_mlp": false, "n_query_groups": 2, "_mlp_class": "LLaMAMLP", "_norm_class": "FusedRMSNorm",
  "norm_eps": 1e-5, "intermediate_size": 128, "condense_ratio": 1})";

constexpr const char* kLlama = R"({
  "model_type": "llama", "vocab_size": 256, "hidden_size": 64, "intermediate_size": 160,
  "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu",
  "rms_norm_eps": 1e-6, "max_position_embeddings": 512})";

constexpr const char* kStateSpaces = R"({
  "d_model": 40, "n_layer": 2, "vocab_size": 250, "ssm_cfg": {"d_state": 8}, "rms_norm": true,
  "residual_in_fp32": true, "fused_add_norm": true, "pad_vocab_size_multiple": 8})";

constexpr const char* kFlaSamba = R"({
  "model_type": "samba", "hidden_size": 64, "num_hidden_layers": 4, "vocab_size": 256,
  "attn": {"layers": [1, 3, 5], "num_heads": 4, "num_kv_heads": 2, "window_size": 16}})";

constexpr const char* kFlaGla = R"({
  "model_type": "gla", "hidden_size": 64, "num_hidden_layers": 3, "num_heads": 2, "vocab_size": 256,
  "attn": [{"layers": [1], "num_heads": 4, "qkv_bias": true}, {"layers": [2], "num_heads": 8}]})";

constexpr const char* kMamba = R"({
  "model_type": "mamba", "vocab_size": 256, "hidden_size": 40, "num_hidden_layers": 2,
  "state_size": 8, "conv_kernel": 3, "expand": 2, "use_bias": false, "layer_norm_epsilon": 1e-5})";

Layout read(const char* base, const std::string& patch = "{}") {
  return layout_of(changed(base, patch), "c.json");
}

/// One letter for each layer: m(amba), s(wiglu), a(ttention within a window), f(ull attention).
std::string kinds(const Layout& layout) {
  std::string all;
  for (const Json& layer : layout.config.layers) {
    const auto type = layer.at("type").get<std::string>();
    all += type == "attention" && !layer.contains("window") ? 'f' : type[0];
  }
  return all;
}

/// Every row of every parameter of the model comes from exactly one row of a tensor, and every row
/// of a tensor goes to one place.
void expect_every_row_once(const Layout& layout) {
  Stream stream(1, Tier::plain);
  const Model model(layout.config, stream, DType::f32);
  std::map<std::string, Index> rows;
  for (const Parameter& p : model.parameters()) rows[p.name] = p.rows;
  std::set<std::pair<std::string, Index>> ours, theirs;
  for (const TensorRows& piece : layout.pieces) {
    ASSERT_TRUE(rows.count(piece.parameter)) << piece.parameter;
    if (piece.cols > 0) {  // columns of a bias, counted as if they were rows
      rows[piece.parameter] = std::max(rows[piece.parameter], piece.column + piece.cols);
      for (Index c = 0; c < piece.cols; ++c)
        EXPECT_TRUE(ours.emplace(piece.parameter, piece.column + c).second) << piece.parameter;
      EXPECT_TRUE(theirs.emplace(piece.tensor, 0).second) << piece.tensor;
      continue;
    }
    for (Index r = 0; r < piece.rows; ++r) {
      EXPECT_TRUE(ours.emplace(piece.parameter, piece.row + r).second) << piece.parameter;
      EXPECT_TRUE(theirs.emplace(piece.tensor, piece.tensor_row + r).second) << piece.tensor;
      EXPECT_LT(piece.row + r, rows[piece.parameter]) << piece.parameter;
    }
  }
  std::size_t all = 0;
  for (const auto& [name, count] : rows) all += static_cast<std::size_t>(count);
  EXPECT_EQ(ours.size(), all);
  for (const auto& [tensor, row] : theirs)
    EXPECT_TRUE(row == 0 || theirs.count({tensor, row - 1})) << tensor << ": a hole before " << row;
}

TEST(Layout, KnowsTheFamilies) {
  EXPECT_EQ(read(kLitGpt).kind, "lit_gpt");
  EXPECT_EQ(read(kLlama).kind, "llama");
  EXPECT_EQ(read(kLlama, R"({"model_type": "mistral"})").kind, "mistral");
  EXPECT_EQ(read(kMamba).kind, "mamba");
  EXPECT_EQ(read(kStateSpaces).kind, "state_spaces");
  EXPECT_EQ(read(kFlaSamba).kind, "samba");
  EXPECT_EQ(read(kFlaGla).kind, "gla");
  EXPECT_EQ(read(kFlaGla, R"({"model_type": "retnet"})").kind, "retnet");
  const char* ours = R"({"vocab": 8, "d_model": 8, "layers": [{"type": "mamba"}]})";
  EXPECT_EQ(read(ours).kind, "sambalm");
  EXPECT_TRUE(read(ours).pieces.empty());
}

TEST(Layout, EveryRowHasItsPlace) {
  for (const char* patch :
       {"{}", R"({"n_query_groups": 1})", R"({"n_query_groups": null})", R"({"mamba": true})",
        R"({"mamba_init": false, "mb_per_layer": -1})", R"({"nope": true})", R"({"sc_attn": true})",
        R"({"abl_mamba": true})", R"({"mamba_swa_mlp": true, "mb_per_layer": -1})",
        R"({"use_mega": true, "mb_per_layer": -1})", R"({"mb_per_layer": -1, "ret_per_layer": 2})",
        R"({"mb_per_layer": -1, "gla_per_layer": 2, "n_embd": 768})",
        R"({"parallel_residual": true, "shared_attention_norm": true})"}) {
    SCOPED_TRACE(patch);
    expect_every_row_once(read(kLitGpt, patch));
  }
  for (const char* patch : {"{}", R"({"attn": null})", R"({"tie_word_embeddings": true})",
                            R"({"attn": {"num_kv_heads": null, "qkv_bias": true}})"}) {
    SCOPED_TRACE(patch);
    expect_every_row_once(read(kFlaSamba, patch));
  }
  for (const char* patch : {"{}", R"({"use_short_conv": true})", R"({"fuse_norm": false})",
                            R"({"model_type": "retnet"})", R"({"intermediate_size": 100})"}) {
    SCOPED_TRACE(patch);
    expect_every_row_once(read(kFlaGla, patch));
  }
  for (const char* patch : {"{}", R"({"ssm_cfg": {"dt_rank": 5, "conv_bias": false}})",
                            R"({"tie_embeddings": false})"}) {
    SCOPED_TRACE(patch);
    expect_every_row_once(read(kStateSpaces, patch));
  }
  for (const char* patch : {"{}", R"({"tie_word_embeddings": true})", R"({"head_dim": 24})",
                            R"({"num_key_value_heads": null})"}) {
    SCOPED_TRACE(patch);
    expect_every_row_once(read(kLlama, patch));
  }
  for (const char* patch : {"{}", R"({"tie_word_embeddings": false})",
                            R"({"use_conv_bias": false})", R"({"time_step_rank": 7})"}) {
    SCOPED_TRACE(patch);
    expect_every_row_once(read(kMamba, patch));
  }
}

TEST(Layout, LitGptsPatternsOfLayers) {
  EXPECT_EQ(kinds(read(kLitGpt)), "msasmsas");
  EXPECT_EQ(kinds(read(kLitGpt, R"({"mb_per_layer": 1})")), "msmsmsms");
  EXPECT_EQ(kinds(read(kLitGpt, R"({"mb_per_layer": -1})")), "asasasas");
  EXPECT_EQ(kinds(read(kLitGpt, R"({"mb_per_layer": 3})")), "msasasms");
  EXPECT_EQ(kinds(read(kLitGpt, R"({"local_window": -1})")), "msfsmsfs");
  EXPECT_EQ(kinds(read(kLitGpt, R"({"mb_per_layer": -1, "full_per_layer": 2})")), "asfsasfs");
  EXPECT_EQ(kinds(read(kLitGpt, R"({"attn_layer_pos": "[0, 3]"})")), "asmsmsas");
  EXPECT_EQ(kinds(read(kLitGpt, R"({"abl_mamba": true})")), "ssasssas");
  EXPECT_EQ(kinds(read(kLitGpt, R"({"mamba_swa_mlp": true, "mb_per_layer": -1})")), "masmasmasmas");
  EXPECT_EQ(kinds(read(kLitGpt, R"({"attn_layer_pos": "[]"})")), "msmsmsms");
  EXPECT_EQ(kinds(read(kLitGpt, R"({"mb_per_layer": -1, "ret_per_layer": 2})")), "rsasrsas");
  EXPECT_EQ(kinds(read(kLitGpt, R"({"mb_per_layer": -1, "gla_per_layer": 3, "n_embd": 768})")),
            "gsasasgs");
  EXPECT_EQ(
      kinds(read(kLitGpt, R"({"mamba": true, "n_head": 32, "bias": true, "parallel_residual": true,
                                    "_mlp_class": "GptNeoxMLP", "rotary_percentage": 0.25})")),
      "mmmm")
      << "class defaults without effect";
}

TEST(Layout, LitGptsMeanings) {
  const Layout layout = read(kLitGpt);
  const ModelConfig& c = layout.config;
  EXPECT_EQ(c.vocab, 256);
  EXPECT_EQ(c.d_model, 64);
  EXPECT_EQ(c.context, 64);
  EXPECT_TRUE(c.tied);
  EXPECT_EQ(layout.aliases.at("lm_head.weight"), "transformer.wte.weight");
  const Json attention = c.layers[2];
  EXPECT_EQ(attention.at("heads"), 4);
  EXPECT_EQ(attention.at("kv_heads"), 2);
  EXPECT_EQ(attention.at("window"), 16);
  EXPECT_EQ(attention.at("rope"), true);
  EXPECT_EQ(c.layers[1].at("d_ff"), 128);
  const Layout untied = read(kLitGpt, R"({"mamba_init": false, "nope": true})");
  EXPECT_FALSE(untied.config.tied);
  EXPECT_TRUE(untied.aliases.empty());
  EXPECT_EQ(untied.config.layers[2].at("rope"), false);
  EXPECT_EQ(read(kLitGpt, R"({"n_query_groups": null})").config.layers[2].at("kv_heads"), 4);
  EXPECT_FALSE(attention.contains("short_conv"));
  EXPECT_EQ(read(kLitGpt, R"({"sc_attn": true})").config.layers[2].at("short_conv"), 4);
  const Json stand_in = read(kLitGpt, R"({"abl_mamba": true})").config.layers[0];
  EXPECT_EQ(stand_in.at("type"), "swiglu");
  EXPECT_EQ(stand_in.at("d_ff"), 128) << "twice d_model";
  const Layout parallel =
      read(kLitGpt, R"({"parallel_residual": true, "shared_attention_norm": true})");
  EXPECT_EQ(kinds(parallel), "pppp");
  EXPECT_EQ(parallel.config.layers[1].at("layers")[0].at("type"), "attention");
  EXPECT_EQ(parallel.config.layers[1].at("layers")[1].at("type"), "swiglu");
  const Json mega = read(kLitGpt, R"({"use_mega": true, "mb_per_layer": -1})").config.layers[0];
  EXPECT_EQ(mega.at("chunk"), 2048);
  EXPECT_EQ(mega.at("z_width"), 128);
  EXPECT_EQ(mega.at("dt_rank"), 2);
  EXPECT_EQ(read(kLitGpt, R"({"use_mega": true, "mb_per_layer": -1, "mega_chunk": 16})")
                .config.layers[2]
                .at("chunk"),
            16);
  EXPECT_TRUE(read(kLitGpt, R"({"mamba": true, "mamba_init": false})").config.tied);
}

TEST(Layout, LitGptsPublishedSizes) {
  Json base =
      changed(kLitGpt, R"({"padded_vocab_size": 32000, "n_layer": 12, "n_head": 12, "n_embd": 1536,
      "n_query_groups": 12, "intermediate_size": 4096, "local_window": 2048})");
  const std::pair<const char*, Index> sizes[] = {
      {"{}", 421'793'280},
      {R"({"use_mega": true, "mb_per_layer": -1})", 422'486'016},
      {R"({"abl_mamba": true})", 417'240'576},
      {R"({"mamba_swa_mlp": true, "mb_per_layer": -1, "n_layer": 8})", 394'999'296},
      {R"({"mb_per_layer": -1, "n_layer": 14, "parallel_residual": true,
           "shared_attention_norm": true})",
       445'558'272 - 14 * 1536},  // as many as side by side, less the second norms
  };
  for (const auto& [patch, size] : sizes) {
    Json config = base;
    config.merge_patch(parse_json(patch, "patch"));
    Stream stream(1);
    const Model model(layout_of(config, "c.json").config, stream, DType::f32);
    EXPECT_EQ(model.parameter_count(), size) << patch;
    EXPECT_FALSE(model.has_growing_state()) << patch;
  }
}

TEST(Layout, TheRotationsBaseHasMovedBetweenVersions) {
  const auto base = [](const char* patch) {
    return read(kLlama, patch).config.layers[0].at("rope_base").get<double>();
  };
  EXPECT_EQ(base("{}"), 10000);
  EXPECT_EQ(base(R"({"rope_theta": 500000})"), 500000);
  EXPECT_EQ(base(R"({"rope_theta": 500000.5, "rope_scaling": null})"), 500000.5);
  EXPECT_EQ(base(R"({"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}})"), 1e6);
  EXPECT_EQ(base(R"({"rope_theta": 3, "rope_parameters": {"rope_theta": 1e6}})"), 1e6);
  EXPECT_EQ(base(R"({"rope_theta": 7e3, "rope_scaling": {"type": "default"}})"), 7e3);
}

TEST(Layout, HuggingFacesMeanings) {
  const auto attention = [](const std::string& patch) {
    return read(kLlama, patch).config.layers[0];
  };
  EXPECT_EQ(attention("{}").at("kv_heads"), 2);
  EXPECT_FALSE(attention("{}").contains("window"));
  EXPECT_EQ(attention(R"({"num_key_value_heads": null})").at("kv_heads"), 4);
  EXPECT_EQ(attention(R"({"head_dim": 24})").at("head_width"), 24);
  EXPECT_EQ(attention(R"({"head_dim": null})").at("head_width"), 16);
  EXPECT_FALSE(attention(R"({"sliding_window": 8})").contains("window")) << "Llama has none";
  const std::string mistral = R"({"model_type": "mistral", "sliding_window": )";
  EXPECT_EQ(attention(mistral + "8}").at("window"), 8);
  Json none = changed(kLlama, R"({"model_type": "mistral"})");
  EXPECT_EQ(layout_of(none, "c").config.layers[0].at("window"), 4096) << "the class's default";
  none["sliding_window"] = nullptr;
  EXPECT_FALSE(layout_of(none, "c").config.layers[0].contains("window"));
  EXPECT_FALSE(read(kLlama).config.tied);
  EXPECT_TRUE(read(kLlama, R"({"tie_word_embeddings": true})").config.tied);
  EXPECT_EQ(read(kLlama).config.norm_eps, 1e-6);

  const Layout mamba = read(kMamba);
  EXPECT_TRUE(mamba.config.tied);
  EXPECT_EQ(kinds(mamba), "mm");
  const Json layer = mamba.config.layers[0];
  EXPECT_EQ(layer.at("d_state"), 8);
  EXPECT_EQ(layer.at("d_conv"), 3);
  EXPECT_EQ(layer.at("dt_rank"), 3) << "40 / 16, rounded up";
  EXPECT_EQ(read(kMamba, R"({"time_step_rank": "auto"})").config.layers[0].at("dt_rank"), 3);
  EXPECT_EQ(read(kMamba, R"({"time_step_rank": 5})").config.layers[0].at("dt_rank"), 5);
}

TEST(Layout, NamesTheKeyThatItCannotRun) {
  struct Case {
    const char* base;
    const char* patch;
    const char* message;
  };
  const Case cases[] = {
      {kLitGpt, R"({"condense_ratio": 2})", "c.json: condense_ratio: expected 1, found 2"},
      {kLitGpt, R"({"rotary_percentage": 0.5})",
       "c.json: rotary_percentage: expected 1.0, found 0.5"},
      {kLitGpt, R"({"rotary_percentage": null})", "rotary_percentage: expected 1.0, found 0.25"},
      {kLitGpt, R"({"mb_per_layer": -1, "gla_per_layer": 2})",
       "c.json: n_embd: expected a multiple of the linear attention's heads, n_embd / 384 = 0"},
      {kLitGpt, R"({"mb_per_layer": -1, "ret_per_layer": 2, "n_head": 1, "n_query_groups": 1})",
       "c.json: n_embd: expected a multiple of the linear attention's heads, n_head / 2 = 0"},
      {kStateSpaces, R"({"ssm_cfg": {"layer": "Mamba2"}})",
       "c.json: ssm_cfg: layer: expected \"Mamba1\", found \"Mamba2\""},
      {kStateSpaces, R"({"rms_norm": false})", "c.json: rms_norm: expected true, found false"},
      {kStateSpaces, R"({"attn_layer_idx": [1]})",
       "c.json: attn_layer_idx: expected none, found [1]"},
      {kFlaSamba, R"({"attnres_block_size": 4})",
       "c.json: attnres_block_size: expected null, found 4"},
      {kFlaSamba, R"({"intermediate_size": 96})", "intermediate_size: expected 128, found 96"},
      {kFlaSamba, R"({"attn": {"num_heads": 5}})", "c.json: attn: num_heads: expected a divisor"},
      {kFlaSamba, R"({"attn": {"layers": 3}})", "c.json: attn: layers: expected a list"},
      {kFlaSamba, R"({"attn": 3})", "c.json: attn: expected an object, found 3"},
      {kFlaGla, R"({"attn": [{"layers": ["1"], "num_heads": 4}]})",
       "c.json: attn[0]: layers: expected whole numbers, found \"1\""},
      {kFlaGla, R"({"expand_v": 1.5e300})",
       "c.json: expand_v: expected a multiple of the width 64 that gives 1 to 16777216 columns"},
      {kFlaGla, R"({"expand_k": -1})", "c.json: expand_k: expected a multiple of the width 64"},
      {kFlaGla, R"({"num_kv_heads": 1})", "c.json: num_kv_heads: expected 2, found 1"},
      {kFlaGla, R"({"feature_map": "elu"})", "c.json: feature_map: expected null, found \"elu\""},
      {kFlaGla, R"({"use_gv": true})", "c.json: use_gv: expected false, found true"},
      {kFlaGla, R"({"hidden_act": "gelu"})", "c.json: hidden_act: expected swish or silu"},
      {kLitGpt, R"({"parallel_residual": true})",
       "c.json: parallel_residual: expected the value of shared_attention_norm, found true"},
      {kLitGpt, R"({"shared_attention_norm": true})",
       "c.json: parallel_residual: expected the value of shared_attention_norm, found false"},
      {kLitGpt,
       R"({"parallel_residual": true, "shared_attention_norm": true, "mamba_swa_mlp": true})",
       "c.json: mamba_swa_mlp: expected false, found true"},
      {kLitGpt, R"({"bias": true})", "c.json: bias: expected false"},
      {kLitGpt, R"({"mlp": false})", "c.json: mlp: expected true"},
      {kLitGpt, R"({"_norm_class": "LayerNorm"})", "c.json: _norm_class: expected FusedRMSNorm"},
      {kLitGpt, R"({"_mlp_class": "GptNeoxMLP"})", "c.json: _mlp_class: expected \"LLaMAMLP\""},
      {kLitGpt, R"({"n_head": 5})", "c.json: n_head: expected a divisor of n_embd = 64"},
      {kLitGpt, R"({"n_query_groups": 3})", "a multiple of n_query_groups = 3, found 4"},
      {kLitGpt, R"({"attn_layer_pos": [1, 3]})", "c.json: attn_layer_pos: expected a string"},
      {kLitGpt, R"({"attn_layer_pos": "1"})", "c.json: attn_layer_pos: expected a list, found 1"},
      {kLitGpt, R"({"attn_layer_pos": "[1.5]"})", "attn_layer_pos: expected whole numbers"},
      {kLitGpt, R"({"attn_layer_pos": "[1"})", "c.json: attn_layer_pos"},
      {kLitGpt, R"({"n_layer": 0})", "c.json: n_layer: expected 1 to"},
      {kLitGpt, R"({"n_embd": "64"})", "c.json: n_embd: expected a whole number, found \"64\""},
      {kLlama, R"({"hidden_act": "gelu"})",
       "c.json: hidden_act: expected \"silu\", found \"gelu\""},
      {kLlama, R"({"attention_bias": true})", "c.json: attention_bias: expected false, found true"},
      {kLlama, R"({"mlp_bias": true})", "c.json: mlp_bias: expected false, found true"},
      {kLlama, R"({"rope_scaling": {"type": "linear", "factor": 2}})",
       "c.json: rope_scaling: type: expected \"default\", found \"linear\""},
      {kLlama, R"({"rope_parameters": {"rope_type": "yarn"}})",
       "c.json: rope_parameters: rope_type: expected \"default\", found \"yarn\""},
      {kLlama, R"({"hidden_size": null})",
       "c.json: hidden_size: expected 1 to 16777216, found nothing"},
      {kLlama, R"({"vocab_size": 1.5})", "c.json: vocab_size: expected a whole number, found 1.5"},
      {kMamba, R"({"use_bias": true})", "c.json: use_bias: expected false, found true"},
      {kMamba, R"({"intermediate_size": 100})",
       "c.json: intermediate_size: expected 80, found 100"},
      {kMamba, R"({"hidden_act": "relu"})",
       "c.json: hidden_act: expected \"silu\", found \"relu\""},
      {kMamba, R"({"model_type": "mamba2"})", "found model_type \"mamba2\""},
      {kMamba, R"({"model_type": null})", "found none of these keys"},
      {kMamba, R"({"model_type": 7})", "c.json: model_type: expected a string, found 7"},
  };
  for (const Case& c : cases) {
    const std::string message = error_of([&] { read(c.base, c.patch); });
    EXPECT_NE(message.find(c.message), std::string::npos) << c.patch << ": " << message;
  }
  EXPECT_NE(error_of([] { layout_of(Json::array(), "c.json"); }).find("c.json: expected an object"),
            std::string::npos);
}

TEST(Layout, RefusesNumbersThatNoModelHasWithoutMemory) {
  const std::pair<const char*, std::vector<const char*>> families[] = {
      {kLitGpt,
       {"block_size", "padded_vocab_size", "n_layer", "n_head", "n_embd", "n_query_groups",
        "intermediate_size", "full_per_layer"}},
      {kLlama,
       {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings"}},
      {kMamba,
       {"vocab_size", "hidden_size", "num_hidden_layers", "state_size", "conv_kernel", "expand",
        "time_step_rank"}}};
  const Allocations allocations;
  for (const auto& [base, keys] : families)
    for (const char* key : keys)
      for (const char* value : {"0", "-1", "16777217", "4611686018427387904", "9223372036854775807",
                                "18446744073709551615", "1e9", "1e300", "true", "\"9\"", "[]"}) {
        // "auto" is the one string that stands for a number.
        if (std::string(key) == "time_step_rank" && value[0] == '"') continue;
        const std::string patch = text_of("{\"", key, "\": ", value, "}");
        const std::string message = error_of([&] { read(base, patch); });
        EXPECT_NE(message.find(key), std::string::npos) << patch << ": " << message;
      }
  EXPECT_LT(allocations.peak(), std::size_t{64} << 20);
}

TEST(Layout, RefusesModelsWhoseSizesTogetherAreTooLargeWithoutMemory) {
  const std::pair<const char*, const char*> cases[] = {
      {kLitGpt,
       R"({"n_embd": 16777216, "n_head": 8388608, "n_query_groups": 8388608, "n_layer": 1024})"},
      {kLitGpt, R"({"n_embd": 16777216, "intermediate_size": 16777216})"},
      {kLitGpt, R"({"local_window": 9223372036854775807})"},
      {kLlama,
       R"({"num_attention_heads": 16777216, "num_key_value_heads": 1, "head_dim": 16777216})"},
      {kLlama, R"({"hidden_size": 16777216, "vocab_size": 16777216})"},
      {kMamba, R"({"hidden_size": 16777216, "expand": 16777216})"},
      {kMamba, R"({"state_size": 16777216, "hidden_size": 16777216})"},
  };
  const Allocations allocations;
  for (const auto& [base, patch] : cases) {
    const std::string message = error_of([&] {
      Stream stream(1, Tier::plain);
      const Layout layout = read(base, patch);
      const Model model(layout.config, stream, DType::f32);
      const WeightNames names(layout, model);
    });
    EXPECT_TRUE(message.find("expected at most") != std::string::npos ||
                message.find("expected 1 to 16777216") != std::string::npos)
        << patch << ": " << message;
  }
  EXPECT_LT(allocations.peak(), std::size_t{256} << 20);
}

TEST(Layout, KnowsBuffersWithoutMeaning) {
  EXPECT_TRUE(is_buffer("model.layers.3.self_attn.rotary_emb.inv_freq"));
  EXPECT_FALSE(is_buffer("model.layers.3.self_attn.q_proj.weight"));
  EXPECT_TRUE(is_buffer("transformer.h.1.attn.rel_pos_bias._float_tensor"));
  EXPECT_FALSE(is_buffer("transformer.h.1.attn.rel_pos_bias.alpha"));
}

}  // namespace
}  // namespace samba::test
