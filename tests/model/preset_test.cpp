#include <gtest/gtest.h>

#include <cctype>
#include <cmath>
#include <set>

#include "model/model.h"
#include "support/shared.h"

namespace samba::test {
namespace {

/// A model of the paper or of its authors' code.
struct Published {
  const char* name;  ///< the authors' own
  Index parameters;
  Index context;
  Index window;  ///< of its attention, or Mega-S6's chunk; 0: none
  Index blocks;
  Index residuals;  ///< what scheme "mamba" divides by the root of, R * blocks; 0: scheme "neox"
};

// Ren et al. 2024, and lit_gpt/config.py of their code.
const Published kPublished[] = {
    {"LLaMA_438M", 438'081'024, 4096, 0, 12, 0},
    {"LLaMA_438M2k", 438'081'024, 2048, 0, 12, 0},
    {"LLaMA_438M_SWA", 438'081'024, 4096, 2048, 12, 0},
    {"LLaMA_438M8k_SWA", 438'081'024, 8192, 2048, 12, 0},
    {"LLaMA_438M16k_SWA", 438'081'024, 16384, 2048, 12, 0},
    {"LLaMA_438M32k_SWA", 438'081'024, 32768, 2048, 12, 0},
    {"LLaMA_438M_SWA_full", 438'081'024, 4096, 2048, 12, 0},
    {"LLaMA_438M_SWA_mqa", 414'488'064, 4096, 2048, 12, 0},
    {"LLaMA_438M_SWA_mqa6", 419'206'656, 4096, 2048, 12, 0},
    {"LLaMA_438M_SWA_gqa2", 419'206'656, 4096, 2048, 12, 0},
    {"LLaMA_438M_SWA_gqa4", 428'643'840, 4096, 2048, 12, 0},
    // The published class makes one norm for both branches.
    {"LLaMA_438M_SWA_paral", 445'536'768, 4096, 2048, 14, 28},
    {"LLaMA_438M_SWA_8k4k", 445'558'272, 8192, 4096, 14, 28},
    {"LLaMA_438M_SWA_8k2k", 445'558'272, 8192, 2048, 14, 28},
    {"S6Mega_438M", 422'486'016, 4096, 2048, 12, 24},
    {"Samba_421M", 421'793'280, 4096, 2048, 12, 24},
    {"Samba_421M_1k_window", 421'793'280, 4096, 1024, 12, 24},
    {"Samba_421M_512_window", 421'793'280, 4096, 512, 12, 24},
    {"Samba_421M_nope", 421'793'280, 4096, 2048, 12, 24},
    {"Samba_421M_abl_mamba", 417'240'576, 4096, 2048, 12, 24},
    {"Samba_421M_mqa", 424'152'576, 4096, 2048, 12, 24},
    {"Samba_421M_mqa6", 426'511'872, 4096, 2048, 12, 24},
    {"Samba_421M_gqa2", 426'511'872, 4096, 2048, 12, 24},
    {"Samba_421M_gqa4", 431'230'464, 4096, 2048, 12, 24},
    {"Mamba_SWA_MLP_400M", 394'999'296, 4096, 2048, 8, 24},
    {"LLaMA_449M_full_mamba_0", 449'180'160, 4096, 0, 12, 24},
    {"LLaMA_449M_full_mamba_5", 449'180'160, 4096, 0, 12, 24},
    {"LLaMA_449M_full_mamba_11", 449'180'160, 4096, 0, 12, 24},
    {"LLaMA_443M_full_mamba_1,5", 443'702'784, 4096, 0, 12, 24},
    {"LLaMA_438M_SWA_gla", 438'309'120, 4096, 2048, 12, 0},
    {"LLaMA_446M_SWA_ret", 445'555'200, 4096, 2048, 12, 24},
    {"Samba_1.3B", 1'330'207'488, 4096, 2048, 18, 36},
    {"Samba_1.3B_nope", 1'330'207'488, 4096, 2048, 18, 36},
    {"Samba_1.3B_abl_mamba", 1'315'982'592, 4096, 2048, 18, 36},
    {"Mamba_SWA_MLP_1.3B", 1'239'397'632, 4096, 2048, 12, 36},
    {"S6Mega_1.3B", 1'329'767'424, 4096, 2048, 18, 36},
    {"LLaMA_1.2B_SWA_gla", 1'220'942'592, 4096, 2048, 18, 36},
    {"LLaMA_1.4B_SWA_ret", 1'411'538'688, 4096, 2048, 18, 36},
    {"LLaMA_1.3B_SWA", 1'347'842'304, 4096, 2048, 20, 40},
    {"LLaMA_1.3B_SWA_8k4k", 1'347'842'304, 8192, 4096, 20, 40},
    {"LLaMA_1.3B_SWA_8k2k", 1'347'842'304, 8192, 2048, 20, 40},
    {"LLaMA_1.3B", 1'347'842'304, 4096, 0, 20, 40},
    {"LLaMA_2.9B", 2'914'667'520, 2048, 0, 24, 0},
    {"Mamba_370M", 352'797'696, 4096, 0, 48, 48},
    {"Mamba_430M", 432'804'864, 4096, 0, 60, 60},
    {"Mamba_1.3B", 1'334'740'992, 4096, 0, 48, 48},
};

/// Models that the paper alone describes, by their sizes in millions.
const Published kPaperOnly[] = {
    {"Llama-3_1.6B", 1641, 4096, 0, 24, 0},    {"Mistral_1.6B", 1641, 4096, 2048, 24, 0},
    {"Mamba_1.8B", 1795, 4096, 0, 64, 64},     {"Mamba_SWA_MLP_1.6B", 1655, 4096, 2048, 18, 54},
    {"Mamba_MLP_1.9B", 1946, 4096, 0, 24, 48}, {"Samba_1.7B", 1742, 4096, 2048, 24, 48},
    {"Samba_3.8B", 3864, 4096, 2048, 32, 64},
};

/// Models that speed is measured with, of the same shapes but for vocabulary and MLP.
const Published kMeasured[] = {
    {"Samba_1.7B_bench", 1'704'118'272, 4096, 2048, 24, 48},
    {"Llama-3_1.6B_bench", 1'500'088'320, 4096, 0, 24, 48},
    {"Mistral_1.6B_bench", 1'500'088'320, 4096, 2048, 24, 48},
};

/// The name as its file has it.
std::string file_name(const std::string& published) {
  std::string name;
  for (const char c : published)
    name += c == '_' ? '-' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return name;
}

Model model_of(const std::string& preset, Stream& stream) {
  return Model(model_config(config_document(preset), preset), stream, DType::bf16);
}

/// The one window or chunk that the layers have; 0 where none has any.
Index window_of(const ModelConfig& config) {
  std::set<Index> found;
  for (const Json& step : config.layers)
    for (const Json& layer : step.value("layers", Json::array({step})))
      for (const char* key : {"window", "chunk"})
        if (layer.contains(key)) found.insert(layer.at(key).get<Index>());
  EXPECT_LE(found.size(), 1u) << config.name;
  return found.empty() ? 0 : *found.begin();
}

/// Compares all but the number of parameters.
void expect_published(const Published& expected, const Model& model) {
  const ModelConfig& config = model.config();
  EXPECT_EQ(config.name, file_name(expected.name));
  EXPECT_EQ(config.context, expected.context);
  EXPECT_EQ(window_of(config), expected.window);
  EXPECT_EQ(static_cast<Index>(block_lengths(config.layers).size()), expected.blocks);
  EXPECT_EQ(config.tied, expected.residuals != 0);
  int found = 0;
  for (const Parameter& p : model.parameters()) {
    if (!p.name.ends_with(".out.weight") && !p.name.ends_with(".out_proj.weight") &&
        !p.name.ends_with(".down.weight"))
      continue;
    ++found;
    const auto cols = static_cast<double>(p.cols), rows = static_cast<double>(p.rows);
    if (expected.residuals == 0) {
      EXPECT_EQ(p.init.kind, Init::Kind::normal) << p.name;
      EXPECT_DOUBLE_EQ(p.init.scale, 1 / std::sqrt(static_cast<double>(config.d_model)) /
                                         static_cast<double>(expected.blocks))
          << p.name;
      continue;
    }
    EXPECT_EQ(p.init.kind, Init::Kind::uniform) << p.name;
    // Linear attention draws its own first weights (tests/model/initialise_test.cpp).
    const Json& layer = config.layers.at(std::stoul(p.name.substr(std::string("layers.").size())));
    const bool glorot = layer.at("type") == "gla" || layer.at("type") == "retention";
    const double whole =
        glorot ? std::exp2(-2.5) * std::sqrt(6 / (rows + cols)) : 1 / std::sqrt(cols);
    EXPECT_DOUBLE_EQ(p.init.scale, whole / std::sqrt(static_cast<double>(expected.residuals)))
        << p.name;
  }
  EXPECT_GT(found, 0);
}

TEST(Presets, HaveTheirPublishedSizesUnderBothNames) {
  Stream stream(1);
  std::vector<Published> all(std::begin(kPublished), std::end(kPublished));
  all.insert(all.end(), std::begin(kMeasured), std::end(kMeasured));
  for (const Published& expected : all) {
    SCOPED_TRACE(expected.name);
    for (const std::string& name : {std::string(expected.name), file_name(expected.name)}) {
      const Model model = model_of(name, stream);
      EXPECT_EQ(model.parameter_count(), expected.parameters) << name;
      expect_published(expected, model);
    }
  }
  EXPECT_EQ(stream.pool()->held(), 0u) << "asking about a model allocates nothing";
}

TEST(Presets, OfThePaperAloneHaveThePrintedSizes) {
  Stream stream(1);
  for (const Published& expected : kPaperOnly) {
    SCOPED_TRACE(expected.name);
    for (const std::string& name : {std::string(expected.name), file_name(expected.name)}) {
      const Model model = model_of(name, stream);
      EXPECT_EQ(std::lround(static_cast<double>(model.parameter_count()) / 1e6),
                expected.parameters)
          << name;
      expect_published(expected, model);
    }
  }
}

TEST(Presets, AreAllOfThisTableButForTheSmallOne) {
  std::set<std::string> expected{"tiny", "mamba-432m"};
  for (const Published& model : kPublished) expected.insert(file_name(model.name));
  for (const Published& model : kPaperOnly) expected.insert(file_name(model.name));
  for (const Published& model : kMeasured) expected.insert(file_name(model.name));
  const std::vector<std::string> names = preset_names();
  EXPECT_EQ(std::set(names.begin(), names.end()), expected);
}

TEST(Presets, GrowWhereAttentionIsFullOnly) {
  Stream stream(1);
  for (const std::string& name : preset_names()) {
    bool full = false;
    const Model model = model_of(name, stream);
    for (const Json& layer : model.config().layers)
      full = full || (layer.at("type") == "attention" && !layer.contains("window"));
    EXPECT_EQ(model.config().name, name);
    EXPECT_EQ(model.has_growing_state(), full) << name;
    EXPECT_FALSE(config_document(name).at("group").get<std::string>().empty()) << name;
  }
}

// The authors' name for the model says 430M, the paper's table 432M.
TEST(Presets, BothNamesOfThePureMambaMeanOneModel) {
  Json one = config_document("mamba-430m"), other = config_document("mamba-432m");
  one.erase("name");
  other.erase("name");
  EXPECT_EQ(one, other);
}

TEST(Presets, AnUnknownNameIsRefused) {
  for (const char* name : {"samba-422m", "samba 421m", "samba-421m.json", "", "-"})
    EXPECT_NE(error_of([&] { config_document(name); }).find(": no such preset, file or folder"),
              std::string::npos)
        << name;
}

}  // namespace
}  // namespace samba::test
