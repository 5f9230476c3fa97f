#include "model/config.h"

#include <gtest/gtest.h>

#include "model/allocations.h"
#include "model/model.h"
#include "support/shared.h"

namespace samba::test {
namespace {

/// A good configuration of two layers, changed by a JSON merge patch.
Json document(const char* patch = "{}") {
  Json config = parse_json(R"({"name": "n", "vocab": 64, "d_model": 32, "layers": [
      {"type": "mamba"}, {"type": "attention", "heads": 4, "window": 8}]})",
                           "test");
  config.merge_patch(parse_json(patch, "patch"));
  return config;
}

/// The error of reading the document and building the model.
std::string error_with(const char* patch) {
  return error_of([&] {
    Stream stream(1, Tier::plain);
    const Model model(model_config(document(patch), "c.json"), stream, DType::f32);
  });
}

TEST(Config, NamesThePlaceOfWhatItRefuses) {
  EXPECT_EQ(error_with("{}"), "");
  const std::pair<const char*, const char*> cases[] = {
      {R"({"d_modle": 3})", "c.json: unknown key \"d_modle\"; expected one of name, vocab,"},
      {R"({"vocab": 0})", "c.json: vocab: expected 1 to 16777216, found 0"},
      {R"({"vocab": null})", "c.json: vocab: expected 1 to 16777216, found 0"},
      {R"({"vocab": "64"})", "c.json: vocab: expected a whole number, found \"64\""},
      {R"({"vocab": 6.5})", "c.json: vocab: expected a whole number, found 6.5"},
      {R"({"vocab": 18446744073709551615})", "c.json: vocab: expected a whole number, found 18446"},
      {R"({"d_model": 9223372036854775807})", "c.json: d_model: expected 1 to 16777216, found"},
      {R"({"context": 0})", "c.json: context: expected 1 to 16777216, found 0"},
      {R"({"tied": 1})", "c.json: tied: expected true or false, found 1"},
      {R"({"name": 7})", "c.json: name: expected a string, found 7"},
      {R"({"norm_eps": -1})", "c.json: norm_eps: expected 0 or more, found -1"},
      {R"({"init": "xavier"})", "c.json: init: expected mamba or neox, found \"xavier\""},
      {R"({"layers": null})", "c.json: expected a key \"layers\""},
      {R"({"layers": {"type": "mamba"}})", "c.json: layers: expected a list, found {"},
      {R"({"layers": [3]})", "c.json: layers[0]: expected an object, found 3"},
      {R"({"layers": [{"heads": 4}]})", "layers[0]: expected an object with a \"type\""},
      {R"({"layers": [{"type": 3}]})", "layers[0]: expected an object with a \"type\""},
      {R"({"layers": [{"type": "mamba"}, {"type": "rwkv"}]})",
       "layers[1]: unknown type \"rwkv\"; expected one of attention, gla, mamba, mega_s6, "
       "parallel, "
       "retention, swiglu"},
      {R"({"layers": [{"type": "parallel"}]})", "layers[0]: layers: expected a list of layers"},
      {R"({"layers": [{"type": "parallel", "layers": []}]})", "layers[0]: layers: expected a list"},
      {R"({"layers": [{"type": "parallel", "layers": [{"type": "mamba"}], "d": 1}]})",
       "layers[0]: unknown key \"d\""},
      {R"({"layers": [{"type": "parallel", "layers": [{"type": "mamba"}, 3]}]})",
       "layers[0].layers[1]: expected an object with a \"type\""},
      {R"({"layers": [{"type": "parallel", "layers": [{"type": "rwkv"}]}]})",
       "layers[0].layers[0]: unknown type \"rwkv\""},
      {R"({"layers": [{"type": "parallel", "layers": [{"type": "swiglu", "d_ff": 0}]}]})",
       "layers[0].layers[0]: d_ff: expected 1 to 16777216, found 0"},
      {R"({"layers": [{"type": "parallel", "layers": [{"type": "parallel", "layers": []}]}]})",
       "layers[0].layers[0]: expected a layer, found another list of layers"},
      {R"({"layers": [{"type": "parallel", "layers": [{"type": "mega_s6"}]}]})",
       "layers[0].layers[0]: type: expected a layer that shares the norm, found \"mega_s6\""},
      {R"({"layers": [{"type": "mamba", "heads": 4}]})", "layers[0]: unknown key \"heads\""},
      {R"({"layers": [{"type": "mamba", "d_state": "16"}]})",
       "layers[0]: d_state: expected a whole number, found \"16\""},
  };
  for (const auto& [patch, message] : cases)
    EXPECT_NE(error_with(patch).find(message), std::string::npos)
        << patch << ": " << error_with(patch);
}

TEST(Config, RefusesLayersThatCannotBe) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"type": "attention", "heads": 0})",
       "c.json: layers[0]: heads: expected 1 to 16777216, found 0"},
      {R"({"type": "attention", "heads": -4})",
       "c.json: layers[0]: heads: expected 1 to 16777216, found -4"},
      {R"({"type": "attention", "heads": 5})",
       "c.json: layers[0]: heads: expected a divisor of d_model = 32, found 5"},
      {R"({"type": "attention", "heads": 4, "kv_heads": 3})",
       "c.json: layers[0]: kv_heads: expected a divisor of heads = 4, found 3"},
      {R"({"type": "attention", "heads": 4, "kv_heads": -1})",
       "c.json: layers[0]: kv_heads: expected a divisor of heads = 4, found -1"},
      {R"({"type": "attention", "heads": 4, "window": -1})",
       "c.json: layers[0]: window: expected 1 to 16777216, found -1; without the key attention is "
       "full"},
      {R"({"type": "attention", "heads": 4, "window": 0})",
       "c.json: layers[0]: window: expected 1 to 16777216, found 0; without the key attention is "
       "full"},
      {R"({"type": "attention", "heads": 4, "window": null})",
       "c.json: layers[0]: window: expected a whole number, found null"},
      {R"({"type": "attention", "heads": 32})", "expected an even number with rope, found 1"},
      {R"({"type": "attention", "heads": 4, "rope_base": 0})", "rope_base: expected more than 1"},
      {R"({"type": "mamba", "d_state": 0})",
       "c.json: layers[0]: d_state: expected 1 to 16777216, found 0"},
      {R"({"type": "mamba", "d_conv": 0})",
       "c.json: layers[0]: d_conv: expected 1 to 16777216, found 0"},
      {R"({"type": "mamba", "expand": -1})",
       "c.json: layers[0]: expand: expected 1 to 16777216, found -1"},
      {R"({"type": "mamba", "dt_rank": -1})", "c.json: layers[0]: dt_rank: expected 1 to 16777216"},
      {R"({"type": "swiglu"})", "c.json: layers[0]: d_ff: expected 1 to 16777216, found 0"},
      {R"({"type": "attention", "heads": 4, "short_conv": -1})",
       "c.json: layers[0]: short_conv: expected 1 to 16777216, found -1"},
      {R"({"type": "mega_s6", "chunk": 0})",
       "c.json: layers[0]: chunk: expected 1 to 16777216, found 0"},
      {R"({"type": "mega_s6", "chunk": -2048})",
       "c.json: layers[0]: chunk: expected 1 to 16777216, found -2048"},
      {R"({"type": "mega_s6", "chunk": 8.5})", "chunk: expected a whole number, found 8.5"},
      {R"({"type": "mega_s6", "z_width": 7})",
       "c.json: layers[0]: z_width: expected an even number, found 7"},
      {R"({"type": "mega_s6", "z_width": 0})", "c.json: layers[0]: z_width: expected 1 to"},
      {R"({"type": "mega_s6", "d_state": 0})", "c.json: layers[0]: d_state: expected 1 to"},
      {R"({"type": "mega_s6", "d_conv": -4})", "c.json: layers[0]: d_conv: expected 1 to"},
      {R"({"type": "mega_s6", "dt_rank": -1})", "c.json: layers[0]: dt_rank: expected 1 to"},
      {R"({"type": "mega_s6", "norm_eps": -1})", "norm_eps: expected 0 or more, found -1"},
      {R"({"type": "mega_s6", "heads": 4})", "c.json: layers[0]: unknown key \"heads\""},
      {R"({"type": "mega_s6", "window": 4})", "c.json: layers[0]: unknown key \"window\""},
      {R"({"type": "gla", "heads": 4, "rope_base": 500})",
       "c.json: layers[0]: unknown key \"rope_base\""},
      {R"({"type": "gla", "heads": 4, "gate_rank": 0})",
       "c.json: layers[0]: gate_rank: expected 1 to 16777216, found 0"},
      {R"({"type": "gla", "heads": 4, "gate_rank": -3})",
       "c.json: layers[0]: gate_rank: expected 1 to 16777216, found -3"},
      {R"({"type": "retention", "heads": 4, "gate_rank": 16})",
       "c.json: layers[0]: unknown key \"gate_rank\""},
      {R"({"type": "retention", "heads": 4, "rope_base": 0})",
       "c.json: layers[0]: rope_base: expected more than 1, found 0"},
      {R"({"type": "retention", "heads": 32})",
       "c.json: layers[0]: expand_k: expected an even key width for each head"},
  };
  for (const auto& [layer, message] : cases) {
    const std::string patch = text_of(R"({"layers": [)", layer, "]}");
    EXPECT_NE(error_with(patch.c_str()).find(message), std::string::npos)
        << layer << ": " << error_with(patch.c_str());
  }
}

TEST(Config, RefusesHeadsOfLinearAttentionThatCannotBe) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "heads: expected 1 to 16777216, found 0"},
      {R"("heads": 0)", "heads: expected 1 to 16777216, found 0"},
      {R"("heads": -2)", "heads: expected 1 to 16777216, found -2"},
      {R"("heads": 3, "expand_k": 0.5)",
       "heads: expected a divisor of expand_k * d_model = 16, found 3"},
      {R"("heads": 16, "expand_k": 1, "expand_v": 0.25)",
       "heads: expected a divisor of expand_v * d_model = 8, found 16"},
      {R"("heads": 4, "expand_k": 0)",
       "expand_k: expected a multiple of d_model = 32 that gives 1 to 16777216 columns, "
       "found 0"},
      {R"("heads": 4, "expand_k": -0.5)", "expand_k: expected a multiple of d_model = 32 that"},
      {R"("heads": 2, "expand_k": 0.3)",
       "heads: expected a divisor of expand_k * d_model = 9, found 2"},
      {R"("heads": 1, "expand_k": 0.01)", "columns, found 0.01"},
      {R"("heads": 1, "expand_k": 1e30)", "columns, found 1e+30"},
      {R"("heads": 4, "expand_k": "half")", "expand_k: expected a number, found \"half\""},
      {R"("heads": 4, "expand_v": 0)", "expand_v: expected a multiple of d_model = 32 that"},
      {R"("heads": 4, "expand_v": -2)", "expand_v: expected a multiple of d_model = 32 that"},
      {R"("heads": 4, "expand_v": 1.04)",
       "heads: expected a divisor of expand_v * d_model = 33, found 4"},
      {R"("heads": 4, "short_conv": -4)", "short_conv: expected 1 to 16777216, found -4"},
      {R"("heads": 4, "norm_eps": -1)", "norm_eps: expected 0 or more, found -1"},
      {R"("heads": 4, "window": 8)", "unknown key \"window\"; expected one of heads, expand_k,"},
      {R"("heads": 4, "kv_heads": 2)", "unknown key \"kv_heads\""},
  };
  for (const char* type : {"gla", "retention"})
    for (const auto& [keys, message] : cases) {
      const std::string found = error_with(
          text_of(R"({"layers": [{"type": ")", type, *keys == 0 ? "\"" : "\", ", keys, "}]}")
              .c_str());
      EXPECT_EQ(found.rfind("c.json: layers[0]: ", 0), 0u) << type << ' ' << keys << ": " << found;
      EXPECT_NE(found.find(message), std::string::npos) << type << ' ' << keys << ": " << found;
    }
}

TEST(Config, RefusesSizesWhoseProductsWouldOverflow) {
  const char* layers[] = {
      R"({"type": "attention", "heads": 4611686018427387904, "head_width": 4})",
      R"({"type": "attention", "heads": 4, "head_width": 4611686018427387904})",
      R"({"type": "attention", "heads": 16777216, "head_width": 16777216})",
      R"({"type": "attention", "heads": 4, "window": 9223372036854775807})",
      R"({"type": "mamba", "expand": 9223372036854775807})",
      R"({"type": "mamba", "expand": 16777216, "d_state": 16777216})",
      R"({"type": "mamba", "d_state": 9223372036854775807})",
      R"({"type": "mamba", "d_conv": 9223372036854775807})",
      R"({"type": "mamba", "dt_rank": 9223372036854775807})",
      R"({"type": "swiglu", "d_ff": 9223372036854775807})",
      R"({"type": "gla", "heads": 9223372036854775807})",
      R"({"type": "gla", "heads": 4, "gate_rank": 9223372036854775807})",
      R"({"type": "gla", "heads": 1, "expand_k": 524288, "expand_v": 524288})",
      R"({"type": "retention", "heads": 4, "short_conv": 9223372036854775807})",
      R"({"type": "mega_s6", "chunk": 9223372036854775807})",
      R"({"type": "mega_s6", "chunk": 16777216, "z_width": 16777216})",
      R"({"type": "mega_s6", "z_width": 9223372036854775806})",
  };
  for (const char* layer : layers) {
    const std::string message = error_with(text_of(R"({"layers": [)", layer, "]}").c_str());
    EXPECT_EQ(message.rfind("c.json: layers[0]: ", 0), 0u) << layer << ": " << message;
    EXPECT_TRUE(message.find("expected at most") != std::string::npos ||
                message.find("expected 1 to 16777216") != std::string::npos)
        << layer << ": " << message;
  }
}

TEST(Config, ExpandsRepeats) {
  const ModelConfig config = model_config(
      document(R"({"layers": [{"repeat": 2, "layers": [{"type": "mamba"}, {"repeat": 3, "layers":
               [{"type": "swiglu", "d_ff": 8}]}]}, {"type": "mamba", "d_state": 4}]})"),
      "test");
  std::string types;
  for (const Json& layer : config.layers) types += layer.at("type").get<std::string>()[0];
  EXPECT_EQ(types, "msssmsssm");
  const ModelConfig again = model_config(json_of(config), "again");
  EXPECT_EQ(json_of(again), json_of(config));
}

TEST(Config, RefusesRepeatsThatCannotBe) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"repeat": 0, "layers": []})", "layers[0]: repeat: expected at least 1, found 0"},
      {R"({"repeat": -1, "layers": []})", "layers[0]: repeat: expected at least 1, found -1"},
      {R"({"repeat": "2", "layers": []})", "layers[0]: repeat: expected a whole number"},
      {R"({"repeat": 2})", "layers[0]: repeat: expected \"layers\" beside it"},
      {R"({"repeat": 2, "layers": 3})", "layers[0].layers: expected a list, found 3"},
      {R"({"repeat": 2, "layers": [], "type": "mamba"})", "layers[0]: unknown key \"type\""},
      {R"({"repeat": 2, "layers": [{"repeat": 2, "layers": [7]}]})",
       "layers[0].layers[0].layers[0]: expected an object, found 7"},
  };
  for (const auto& [layer, message] : cases) {
    const std::string patch = text_of(R"({"layers": [)", layer, "]}");
    EXPECT_NE(error_with(patch.c_str()).find(message), std::string::npos)
        << layer << ": " << error_with(patch.c_str());
  }
}

TEST(Config, RefusesMoreLayersThanAnyModelHasWithoutMakingThem) {
  const Allocations allocations;
  for (const char* list : {R"([{"repeat": 1000000000, "layers": [{"type": "mamba"}]}])",
                           R"([{"repeat": 9223372036854775807, "layers": [{"type": "mamba"}]}])",
                           R"([{"repeat": 1000000000, "layers": [{"repeat": 1000000000, "layers":
            [{"repeat": 1000000000, "layers": [{"type": "mamba"}]}]}]}])"}) {
    const std::string message = error_with(text_of(R"({"layers": )", list, "}").c_str());
    EXPECT_NE(message.find("expected at most 4096 layers"), std::string::npos) << message;
  }
  // A small entry may hold many layers, or no layer but much text.
  std::string many, text;
  for (int i = 0; i < 64; ++i) many += R"({"type": "gla"}, )";
  for (int i = 0; i < 1000; ++i) text += "[],";
  const std::string lists[] = {R"({"type": "parallel", "layers": [)" + many + "{}]}",
                               R"({"type": "mamba", "x": [)" + text + "[]]}"};
  const char* messages[] = {"expected at most 4096 layers", "expected entries of at most 2097152"};
  for (int i = 0; i < 2; ++i) {
    const std::string message = error_with(
        text_of(R"({"layers": [{"repeat": 4095, "layers": [)", lists[i], "]}]}").c_str());
    EXPECT_NE(message.find(messages[i]), std::string::npos) << message;
  }
  // Nothing in the list: no number of repeats makes it long.
  EXPECT_EQ(error_with(R"({"layers": [{"repeat": 9223372036854775807, "layers": []}]})"), "");
  EXPECT_LT(allocations.peak(), std::size_t{64} << 20);
}

TEST(Config, CountsBlocksOfMixerAndMlp) {
  const auto blocks = [](const char* letters) {
    std::vector<Json> layers;
    for (const char* c = letters; *c != 0; ++c)
      layers.push_back({{"type", *c == 'm'   ? "mamba"
                                 : *c == 'a' ? "attention"
                                 : *c == 'x' ? "mega_s6"
                                             : "swiglu"}});
    return block_lengths(layers);
  };
  using Lengths = std::vector<Index>;
  EXPECT_EQ(blocks(""), Lengths());
  EXPECT_EQ(blocks("msasms"), Lengths({2, 2, 2}));
  EXPECT_EQ(blocks("massxs"), Lengths({3, 3})) << "the second MLP begins a block";
  EXPECT_EQ(blocks("masmas"), Lengths({3, 3}));
  EXPECT_EQ(blocks("ssas"), Lengths({2, 2})) << "an MLP in the place of a mixer";
  EXPECT_EQ(blocks("mmm"), Lengths({1, 1, 1}));
  EXPECT_EQ(blocks("msmm"), Lengths({2, 1, 1}));
  EXPECT_EQ(blocks("sssss"), Lengths({2, 2, 1}));
}

}  // namespace
}  // namespace samba::test
