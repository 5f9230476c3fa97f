#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "core/files.h"
#include "layers/attention.h"
#include "layers/linear_attention.h"
#include "layers/mamba.h"
#include "layers/mega_s6.h"
#include "layers/registry.h"
#include "layers/swiglu.h"
#include "model/config.h"
#include "train/trainer.h"

// docs/config.md names every key that a configuration may have.

namespace samba::test {
namespace {

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

/// The page from `heading` to the next heading of at most its level; empty where there is none.
std::string section(const std::string& heading) {
  const std::string page = read_text(SAMBA_SOURCE_DIR "/docs/config.md");
  const std::size_t begin = page.find("\n" + heading + "\n");
  if (begin == std::string::npos) return "";
  std::size_t end = page.find("\n## ", begin + 1);
  if (heading.starts_with("### ")) end = std::min(end, page.find("\n### ", begin + 1));
  return page.substr(begin, end - begin);
}

/// Every name begins a row of the section's table.
void expect_rows(const std::string& heading, const std::vector<std::string>& names) {
  const std::string text = section(heading);
  EXPECT_FALSE(text.empty()) << "docs/config.md lacks the section " << heading;
  for (const std::string& name : names)
    EXPECT_NE(text.find("\n| `" + name + "` |"), std::string::npos)
        << "docs/config.md: " << heading << " lacks a row for " << name;
}

TEST(ConfigPage, NamesEveryKeyOfTheModel) {
  expect_rows("## The model", names_of<ModelConfig>());
}

TEST(ConfigPage, NamesEveryKeyOfTraining) {
  expect_rows("## Training", names_of<TrainConfig>());
}

TEST(ConfigPage, NamesEveryKeyOfEveryLayer) {
  const std::map<std::string, std::vector<std::string>> fields{
      {"attention", names_of<Attention::Config>()},
      {"gla", names_of<Gla::Config>()},
      {"mamba", names_of<Mamba::Config>()},
      {"mega_s6", names_of<MegaS6::Config>()},
      {"parallel", {"layers"}},
      {"retention", names_of<Retention::Config>()},
      {"swiglu", names_of<SwiGlu::Config>()}};
  for (const LayerType& type : layer_types()) {
    ASSERT_TRUE(fields.contains(type.name)) << "this test lacks the fields of " << type.name;
    expect_rows("### `" + type.name + "`", fields.at(type.name));
  }
}

}  // namespace
}  // namespace samba::test
