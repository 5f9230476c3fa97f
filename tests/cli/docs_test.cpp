#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "model/config.h"
#include "support/config_page.h"
#include "train/trainer.h"

// docs/config.md names every key that a configuration may have.

namespace samba::test {
namespace {

const std::string kPage = SAMBA_SOURCE_DIR "/docs/config.md";

/// The names of a configuration's fields.
template <class Config>
std::vector<std::string> names_of() {
  std::vector<std::string> names;
  auto visitor = [&](const char* name, auto& /*member*/, const char* /*help*/) {
    names.emplace_back(name);
  };
  Config config;
  config.fields(visitor);
  return names;
}

TEST(ConfigPage, NamesEveryKeyOfTheModel) {
  expect_rows(kPage, "## The model", names_of<ModelConfig>());
}

TEST(ConfigPage, NamesEveryKeyOfTraining) {
  expect_rows(kPage, "## Training", names_of<TrainConfig>());
}

TEST(ConfigPage, NamesEveryKeyOfEveryLayer) {
  for (const LayerType& type : layer_types()) expect_section(kPage, type);
}

}  // namespace
}  // namespace samba::test
