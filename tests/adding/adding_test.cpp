#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/program.h"
#include "support/config_page.h"

// What docs/adding.md adds, linked in place of the program's own registry, in the words of the
// page.

namespace samba::test {
namespace {

/// A file that the page's reader has by now: one that it prints, or a copy with its edits.
std::string followed(const std::string& name) {
  return std::string(SAMBA_FOLLOWED_DIR) + "/" + name;
}

TEST(Adding, TheLayerIsListedAndHasItsSection) {
  const std::vector<LayerType> types = layer_types();
  const auto found = std::find_if(types.begin(), types.end(),
                                  [](const LayerType& t) { return t.name == "gated_conv"; });
  ASSERT_NE(found, types.end());
  EXPECT_EQ(keys_of(*found), (std::vector<std::string>{"expand", "taps"}));
  expect_section(followed("docs/config.md"), *found);
}

TEST(Adding, TheHybridIsDescribedTrainedAndRead) {
  const Prepared place(Prepared::Until::data);
  const std::string hybrid = followed("hybrid.json");
  // This process has the layer, the program itself does not.
  const auto run = [&](std::vector<std::string> words) {
    testing::internal::CaptureStdout();
    words.push_back("--quiet");
    const int code = run_program(words);
    const std::string out = testing::internal::GetCapturedStdout();
    EXPECT_EQ(code, 0) << testing::PrintToString(words);
    return out;
  };
  EXPECT_NE(run({"info", hybrid}).find("4 x (gated_conv, swiglu, attention, swiglu)"),
            std::string::npos);
  run({"train", hybrid, "--data", place / "data", "--out", place / "run", "--steps", "2", "--batch",
       "1", "--length", "32", "--validate-lengths", "32", "--validate-sequences", "1"});
  EXPECT_EQ(run({"generate", place / "run", "the", "--tokens", "3"}).rfind("the", 0), 0u);
  place.refuse(1, {"info", hybrid}, {"unknown type \"gated_conv\""});
}

}  // namespace
}  // namespace samba::test
