#include <gtest/gtest.h>

#include <cstdio>

#include "cli/program.h"

namespace samba::test {
namespace {

/// `run`, trained at 16 tokens, and `longer`, another model, trained at 32.
class SeveralModels : public testing::Test, public Prepared {
 protected:
  SeveralModels() {
    write("longer.json", mini({{"name", "longer"}, {"context", 32}}).dump());
    succeed({"train", "longer.json", "--data", "data", "--out", "longer", "--quiet"});
  }

  static std::string shown(const Json& row) {
    char text[32];
    std::snprintf(text, sizeof(text), "%.3f", row.at("perplexity").get<double>());
    return text;
  }
};

TEST_F(SeveralModels, AreMeasuredAtTheLengthsOfTheFirst) {
  const std::vector<std::string> tail{"--data", "data", "--sequences", "3"};
  const auto measure = [&](std::vector<std::string> words) {
    words.insert(words.begin(), {"eval", "perplexity"});
    words.insert(words.end(), tail.begin(), tail.end());
    return result(words);
  };
  const Json both = measure({"run", "longer"});
  ASSERT_EQ(both.at("models").size(), 2u);
  // Each as when it is measured alone, at the lengths that fit the model named first.
  EXPECT_EQ(both["models"][0], measure({"run"}));
  EXPECT_EQ(both["models"][1], measure({"longer", "--lengths", "16,32,48,64"}));
  const Json turned = measure({"longer", "run"});
  EXPECT_EQ(turned["models"][0], measure({"longer"}));
  EXPECT_EQ(turned["models"][1], measure({"run", "--lengths", "32,64,96,128"}));
  EXPECT_EQ(turned["models"][1]["lengths"][0]["length"], 32);
  // Lengths that are asked for come in rising order, whatever the models' own.
  const Json asked = measure({"run", "longer", "--lengths", "40,8"});
  for (const Json& model : asked["models"]) {
    ASSERT_EQ(model["lengths"].size(), 2u);
    EXPECT_EQ(model["lengths"][0]["length"], 8);
    EXPECT_EQ(model["lengths"][1]["length"], 40);
  }
}

TEST_F(SeveralModels, StandInOneTableAndOnOnePage) {
  const std::string out =
      succeed({"eval", "perplexity", "run", "longer", "--data", "data", "--sequences", "3",
               "--lengths", "16,32", "--json", "both.json", "--report", "both.html"});
  const Json models = parse_json(read("both.json"), "both.json").at("models");
  EXPECT_NE(out.find("at 16"), std::string::npos) << out;
  EXPECT_NE(out.find("at 32"), std::string::npos) << out;
  EXPECT_NE(out.find("3 sequences of 32 tokens from data/validation"), std::string::npos) << out;
  for (std::size_t k = 0; k < 2; ++k)
    EXPECT_EQ(models[0]["lengths"][k]["unigram_entropy"],
              models[1]["lengths"][k]["unigram_entropy"]);
  EXPECT_NE(out.find("\nunigram "), std::string::npos) << out;
  for (const Json& model : models) {
    const std::size_t row = out.find("\n" + model["model"].get<std::string>());
    ASSERT_NE(row, std::string::npos) << out;
    const std::string line = out.substr(row + 1, out.find('\n', row + 1) - row);
    for (const Json& length : model["lengths"])
      EXPECT_NE(line.find(shown(length)), std::string::npos) << line;
  }
  const std::string page = read("both.html");
  for (const char* part :
       {"2 models side by side", "<td>mini</td>", "<td>longer</td>", "<td>Token frequencies</td>",
        "Perplexity at 16", ">at 32<", "Loss during training"})
    EXPECT_NE(page.find(part), std::string::npos) << part;
  // They were trained at different lengths: the chart names neither.
  EXPECT_EQ(page.find("trained at"), std::string::npos);
  // One model has a page of its own kind.
  succeed(
      {"eval", "perplexity", "run", "--data", "data", "--sequences", "3", "--report", "one.html"});
  EXPECT_EQ(read("one.html").find("side by side"), std::string::npos);
}

TEST_F(SeveralModels, AreRefusedTogetherWhereOneCannotBeMeasured) {
  const auto refused = [&](int code, const std::string& second,
                           const std::vector<std::string>& parts) {
    refuse(code,
           {"eval", "perplexity", "run", second, "--data", "data", "--sequences", "1", "--quiet",
            "--report", "page.html"},
           parts);
  };
  refused(1, "tiny", {"tiny: a preset has no weights"});
  refused(1, "none", {"none"});
  write("other.jsonl", documents(150, 7));
  succeed({"tokenizer", "train", "other.jsonl", "--vocab", "300", "--out", "other.model"});
  succeed({"prepare", "other.jsonl", "--tokenizer", "other.model", "--out", "other", "--validation",
           "0.2"});
  succeed({"train", "mini.json", "--data", "other", "--out", "stranger", "--quiet"});
  refused(1, "stranger", {"data/validation: packed with the tokenizer "});
}

}  // namespace
}  // namespace samba::test
