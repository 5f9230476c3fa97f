#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "cli/program.h"
#include "core/utf8.h"
#include "support/shared.h"

namespace samba::test {
namespace {

namespace fs = std::filesystem;

TEST(Output, JsonIsOneDocumentAndNothingElse) {
  const Prepared place;
  const std::string golden = test_file("goldens/lit_gpt/samba");
  EXPECT_EQ(place.result({"tokenizer", "train", "text.jsonl", "--vocab", "300", "--out",
                          "t.model"})["vocabulary"],
            300);
  const Json ids = place.result({"tokenizer", "encode", "tokenizer.model", "the river"})["ids"];
  std::string list;
  for (const Json& id : ids) list += id.dump() + ",";
  EXPECT_EQ(place.result({"tokenizer", "decode", "tokenizer.model", list})["text"], "the river");
  EXPECT_EQ(place.result({"prepare", "text.jsonl", "--tokenizer", "t.model", "--out",
                          "d"})["splits"][0]["documents"],
            200);
  EXPECT_EQ(place.result({"train", "mini.json", "--data", "data", "--out", "r"})["steps"], 2);
  EXPECT_EQ(place.result({"generate", "run", "the", "--tokens", "7", "--ignore-end"})["tokens"], 7);
  EXPECT_EQ(place.result({"eval", "perplexity", "run", "--data", "data"})["lengths"].size(), 4u);
  EXPECT_EQ(place.result({"bench", "run", "--rounds", "1", "--profile"}).size(), 2u);
  EXPECT_EQ(place.result({"info", "run"})["d_model"], 32);
  EXPECT_GT(place.result({"info", "--list"}).size(), 3u);
  EXPECT_EQ(place.result({"verify", golden, golden + "/expected.safetensors"})["passed"], true);
}

TEST(Output, JsonGoesToAFileBesideWhatIsPrinted) {
  const Prepared place;
  const std::string shown = place.succeed({"info", "run"});
  EXPECT_EQ(place.succeed({"info", "run", "--json", "info.json"}), shown);
  EXPECT_EQ(parse_json(place.read("info.json"), "info.json"), place.result({"info", "run"}));
  const Ended ended = place.run({"info", "run", "--json", "none/x.json"});
  EXPECT_EQ(ended.code, 1);
  EXPECT_EQ(ended.err, "sambalm: none/x.json: cannot write: No such file or directory\n");
}

TEST(Output, PresetsAreListedByGroupInAHundredColumns) {
  const Workplace place;
  std::map<std::string, std::string> blocks;
  std::vector<std::string> groups;
  for (const Json& row : place.result({"info", "--list"})) {
    blocks[row.at("name")] = row.at("blocks");
    if (groups.empty() || groups.back() != row.at("group")) groups.push_back(row.at("group"));
  }
  EXPECT_EQ(std::set(groups.begin(), groups.end()).size(), groups.size()) << "one group twice";
  EXPECT_EQ(blocks.at("samba-1.3b"), "(M A) x9");
  EXPECT_EQ(blocks.at("samba-421m-nope"), "(M A) x6, no RoPE");
  EXPECT_EQ(blocks.at("samba-421m-abl-mamba"), "(P A) x6");
  EXPECT_EQ(blocks.at("mamba-swa-mlp-400m"), "MA x8");
  EXPECT_EQ(blocks.at("mamba-430m"), "M x60, no MLP");
  EXPECT_EQ(blocks.at("mamba-mlp-1.9b"), "M x24");
  EXPECT_EQ(blocks.at("s6mega-438m"), "X x12");
  EXPECT_EQ(blocks.at("llama-438m-swa-full"), "(A F) x6");
  EXPECT_EQ(blocks.at("llama-438m-swa-gla"), "(G A) x6");
  EXPECT_EQ(blocks.at("llama-446m-swa-ret"), "(R A) x6");
  EXPECT_EQ(blocks.at("llama-443m-full-mamba-1,5"), "M, F, M x3, F, M x6");

  std::istringstream lines(place.succeed({"info", "--list"}));
  std::set<std::string> first;
  for (std::string line; std::getline(lines, line);) {
    EXPECT_LE(line.size(), 100u) << line;
    EXPECT_FALSE(line.ends_with(' ')) << line;
    const std::size_t begin = line.find_first_not_of(' ');
    if (begin == 2) first.insert(line.substr(2, line.find(' ', 2) - 2));
  }
  for (const auto& [name, pattern] : blocks) EXPECT_TRUE(first.contains(name)) << name;
}

TEST(Output, APresetAnswersToTheNameOfItsAuthors) {
  const Workplace place;
  for (const auto& [published, ours] :
       {std::pair("LLaMA_438M_SWA_mqa6", "llama-438m-swa-mqa6"),
        std::pair("LLaMA_443M_full_mamba_1,5", "llama-443m-full-mamba-1,5"),
        std::pair("Samba_1.3B", "samba-1.3b"), std::pair("S6Mega_438M", "s6mega-438m")}) {
    EXPECT_EQ(place.result({"info", published}), place.result({"info", ours}));
    EXPECT_EQ(place.result({"info", ours})["name"], ours);
  }
}

TEST(Output, NamesThatAreNotUtf8DoNotBreakTheJson) {
  const Prepared place;
  fs::create_directory_symlink(place / "run", place / "r\xff");
  EXPECT_EQ(
      place.result({"eval", "perplexity", "r\xff", "--data", "data", "--sequences", "1"})["model"],
      "r\ufffd");
}

TEST(Output, ResultsGoToStandardOutputAndTheRestToStandardError) {
  const Prepared place;
  Ended ended = place.run({"generate", "run", "the", "--tokens", "5"});
  EXPECT_EQ(ended.out.rfind("the", 0), 0u);
  EXPECT_NE(ended.err.find("tokens/s"), std::string::npos);
  ended = place.run({"train", "mini.json", "--data", "data", "--out", "new"});
  EXPECT_EQ(ended.out, "checkpoint: new/step-00000002\n");
  EXPECT_NE(ended.err.find("loss"), std::string::npos);
  EXPECT_EQ(ended.err.find_first_of("\r\x1b"), std::string::npos) << "no terminal, no bar";
  ended = place.run({"train", "mini.json", "--data", "data", "--out", "quiet", "--quiet"});
  EXPECT_EQ(ended.err, "");
}

TEST(Generate, ThePromptComesFromAnywhere) {
  const Prepared place;
  const std::string prompt = "the river walks\nover";
  place.write("prompt.txt", prompt);
  const auto with = [&](std::vector<std::string> more, const Surroundings& s = {}) {
    std::vector<std::string> words = {"generate", "run", "--quiet", "--tokens", "20"};
    words.insert(words.end(), more.begin(), more.end());
    return place.succeed(words, s);
  };
  const std::string text = with({prompt});
  EXPECT_EQ(text.rfind(prompt, 0), 0u);
  EXPECT_GT(text.size(), prompt.size() + 1);
  EXPECT_EQ(with({"--prompt", prompt}), text);
  EXPECT_EQ(with({"--prompt=" + prompt}), text);
  EXPECT_EQ(with({"--file", "prompt.txt"}), text);
  EXPECT_EQ(with({"--file", "-"}, {.input = prompt}), text);
  EXPECT_EQ(with({}, {.input = prompt}), text);
  ASSERT_EQ(::mkfifo((place / "pipe").c_str(), 0644), 0);
  Program program(place.path(), {"generate", "run", "--quiet", "--tokens", "20", "--file", "pipe"},
                  {});
  std::ofstream(place / "pipe") << prompt;
  EXPECT_EQ(program.end().out, text) << "a shell's <(...) is a pipe";
  EXPECT_EQ(with({"--chunk", "1", prompt}), text) << "however it is read";
  EXPECT_FALSE(with({}).empty()) << "nothing at all is a prompt, too";
}

TEST(Generate, SeedsDecideWhatIsSampled) {
  const Prepared place;
  const auto text = [&](const std::vector<std::string>& more) {
    std::vector<std::string> words = {"generate", "run", "the", "--tokens", "30"};
    words.insert(words.end(), more.begin(), more.end());
    return place.result(words)["text"].get<std::string>();
  };
  EXPECT_EQ(text({"--seed", "3"}), text({"--seed", "3"}));
  EXPECT_NE(text({"--seed", "3"}), text({"--seed", "4"}));
  const std::string greedy = text({"--temperature", "0"});
  EXPECT_EQ(text({"--temperature", "0", "--seed", "9"}), greedy);
  EXPECT_EQ(text({"--top-k", "1", "--seed", "5"}), greedy);
  EXPECT_EQ(text({"--top-p", "1e-9", "--seed", "6"}), greedy);
  EXPECT_EQ(text({"--tokens", "0"}), "");
}

TEST(Generate, WhatIsShownIsUtf8WhateverIsSampled) {
  const Prepared place;
  for (const char* seed : {"1", "2", "3", "4"}) {
    const std::string text =
        place.succeed({"generate", "run", "caf\u00e9", "--tokens", "400", "--temperature", "9",
                       "--ignore-end", "--quiet", "--seed", seed});
    EXPECT_EQ(first_invalid_utf8(text), std::string::npos);
    EXPECT_NE(text.find("\ufffd"), std::string::npos) << "no lone byte was met";
  }
}

TEST(Generate, StopTextEndsTheOutputAndIsNotShown) {
  const Prepared place;
  const auto run = [&](const std::vector<std::string>& stops) {
    std::vector<std::string> words = {"generate", "run", "the", "--tokens", "60", "--ignore-end"};
    for (const std::string& stop : stops) words.insert(words.end(), {"--stop", stop});
    return place.result(words);
  };
  const std::string whole = run({})["text"];
  std::size_t at = whole.size() / 2;
  while ((whole[at] & 0xc0) == 0x80) ++at;
  std::size_t end = std::min(whole.size(), at + 6);
  while (end < whole.size() && (whole[end] & 0xc0) == 0x80) ++end;
  const std::string stop = whole.substr(at, end - at);
  const Json stopped = run({"never there", stop});
  EXPECT_EQ(stopped["text"], whole.substr(0, whole.find(stop)));
  EXPECT_LT(stopped["tokens"], 60);
}

TEST(Generate, MemoryDoesNotGrowWithTheLength) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the address sanitizer keeps memory that was freed";
#endif
  const Prepared place;
  const Json result =
      place.result({"generate", "run", "the", "--tokens", "30000", "--ignore-end", "--quiet"});
  EXPECT_EQ(result["tokens"], 30000);
  const Json& intervals = result["intervals"];
  ASSERT_EQ(intervals.size(), 3u);
  const auto bytes = [&](std::size_t i) { return intervals[i]["resident_bytes"].get<Index>(); };
  EXPECT_GT(bytes(0), 0);
  // The text itself is all that is kept: a few bytes a token.
  EXPECT_LE(bytes(2), bytes(0) + 20'000 * 32);
}

TEST(Verify, AcceptsItsOwnNumbersAndExitsOneOnOthers) {
  const Workplace place;
  const std::string golden = test_file("goldens/hf/hf_llama");
  place.succeed({"verify", golden, golden + "/expected.safetensors", "--write", "own.safetensors"});
  place.succeed({"verify", golden, "own.safetensors"});
  place.succeed({"verify", golden, "own.safetensors", "--mode", "recurrent"});
  std::string bytes = place.read("own.safetensors");
  const std::size_t end = bytes.size() / 4 * 4;
  for (std::size_t at = end - 4000; at < end; at += 4)
    bytes.replace(at, 4, std::string("\0\0\x80\x3f", 4));
  place.write("other.safetensors", bytes);
  const Ended ended = place.run({"verify", golden, "other.safetensors"});
  EXPECT_EQ(ended.code, 1);
  EXPECT_NE(ended.out.find("above"), std::string::npos);
}

}  // namespace
}  // namespace samba::test
