#include <gtest/gtest.h>

#include "cli/program.h"

namespace samba::test {
namespace {

const std::vector<std::vector<std::string>> kCommands = {{"tokenizer", "train"},
                                                         {"tokenizer", "encode"},
                                                         {"tokenizer", "decode"},
                                                         {"prepare"},
                                                         {"train"},
                                                         {"generate"},
                                                         {"eval", "perplexity"},
                                                         {"bench"},
                                                         {"info"},
                                                         {"verify"}};

TEST(Usage, EveryCommandExplainsItself) {
  const Workplace place;
  for (std::vector<std::string> words : kCommands) {
    const std::string command = "sambalm " + words[0];
    for (const char* help : {"--help", "-h"}) {
      std::vector<std::string> asked = words;
      asked.emplace_back(help);
      const Ended ended = place.run(asked);
      EXPECT_EQ(ended.code, 0) << command;
      EXPECT_EQ(ended.out.rfind(command, 0), 0u) << ended.out;
      EXPECT_NE(ended.out.find("\n  --"), std::string::npos) << "no options: " << ended.out;
      EXPECT_EQ(ended.err, "");
    }
    EXPECT_NE(place.succeed({"help", words[0]}).find(command), std::string::npos);
    EXPECT_NE(place.succeed({words[0], "--help"}).find(command), std::string::npos);
    EXPECT_NE(place.succeed({"help"}).find("\n  " + words[0] + " "), std::string::npos);
  }
  EXPECT_EQ(place.succeed({"--help"}), place.succeed({"help"}));
}

TEST(Usage, TheVersionIsThatOfTheBuild) {
  const Workplace place;
  EXPECT_EQ(place.succeed({"--version"}), "sambalm " SAMBA_VERSION "\n");
}

TEST(Usage, NothingAtAllIsWrong) {
  const Workplace place;
  EXPECT_EQ(place.run({}).code, 2);
  for (const std::vector<std::string>& words : kCommands) {
    const Ended ended = place.run(words);
    EXPECT_EQ(ended.code, 2) << words[0];
    EXPECT_EQ(ended.err.rfind("sambalm: expected ", 0), 0u) << ended.err;
  }
  place.refuse(2, {"tokenizer"}, {"train, encode or decode"});
  place.refuse(2, {"eval"}, {"perplexity"});
}

TEST(Usage, UnknownCommandsNameTheNearest) {
  const Workplace place;
  place.refuse(2, {"trian"}, {"trian", "nearest is train"});
  place.refuse(2, {"generat", "--help"}, {"generat", "nearest is generate"});
  place.refuse(2, {"--verison"}, {"--verison", "nearest is --version"});
  place.refuse(2, {"xyzzy"}, {"xyzzy", "sambalm help"});
  place.refuse(2, {"help", "xyzzy"}, {"xyzzy", "sambalm help"});
  place.refuse(2, {"tokenizer", "encod"}, {"train, encode or decode"});
  place.refuse(2, {"eval", "perplexty", "m"}, {"perplexity"});
  place.refuse(2, {"line\nbreak"}, {"line?break"});
}

TEST(Usage, UnknownOptionsNameTheNearest) {
  const Workplace place;
  for (std::vector<std::string> words : kCommands) {
    words.emplace_back("--quite");
    const bool quiet = words[0] != "tokenizer" || words[1] == "train";
    place.refuse(2, words, {"unknown option --quite", quiet ? "nearest is --quiet" : "--quite"});
  }
  place.refuse(2, {"train", "--vallidate-every", "3"}, {"nearest is --validate-every"});
  place.refuse(2, {"generate", "--temprature=0"}, {"--temprature;", "nearest is --temperature"});
  place.refuse(2, {"info", "--xyzzyx"}, {"--xyzzyx"});
}

TEST(Usage, OptionsWithoutTheirValueAreNamed) {
  const Workplace place;
  place.refuse(2, {"train", "tiny", "--out"}, {"--out", "expected a value"});
  place.refuse(2, {"train", "tiny", "--data", "--out", "run"}, {"--data", "expected a value"});
  place.refuse(2, {"generate", "m", "x", "--tokens", "--quiet"}, {"--tokens", "expected a value"});
  place.refuse(2, {"info", "tiny", "--json"}, {"--json", "expected a value"});
  place.refuse(2, {"info", "tiny", "--quiet=yes"}, {"--quiet", "takes no value"});
}

TEST(Usage, ValuesOfTheWrongKindAreNamed) {
  const Workplace place;
  place.refuse(2, {"train", "tiny", "--steps", "many"}, {"--steps", "a whole number", "many"});
  place.refuse(2, {"train", "tiny", "--steps", "1.5"}, {"--steps", "a whole number", "1.5"});
  place.refuse(2, {"train", "tiny", "--steps", ""}, {"--steps", "a whole number"});
  place.refuse(2, {"train", "tiny", "--steps", "99999999999999999999"}, {"--steps"});
  place.refuse(2, {"train", "tiny", "--lr", "fast"}, {"--lr", "a number", "fast"});
  place.refuse(2, {"train", "tiny", "--lr", "inf"}, {"--lr", "a number", "inf"});
  place.refuse(2, {"eval", "perplexity", "m", "--lengths", "8,,9"}, {"--lengths"});
  place.refuse(2, {"info", "tiny", "--seed", "0x10"}, {"--seed", "0x10"});
}

TEST(Usage, TooManyWordsAreNamed) {
  const Workplace place;
  place.refuse(2, {"info", "tiny", "mini"}, {"unexpected argument \"mini\""});
  place.refuse(2, {"verify", "a", "b", "c"}, {"unexpected argument \"c\""});
  place.refuse(2, {"generate", "m", "a", "--prompt", "b"}, {"one prompt"});
  place.refuse(2, {"generate", "m", "a", "--file", "b"}, {"one prompt"});
}

TEST(Usage, CommonOptionsRefuseWhatDoesNotExist) {
  const Workplace place;
  place.refuse(1, {"info", "tiny", "--device", "tpu"}, {"device", "tpu", "cpu"});
  place.refuse(1, {"info", "tiny", "--dtype", "f8"}, {"dtype", "f8", "bf16"});
  place.refuse(1, {"info", "tiny", "--threads", "-1"}, {"threads", "-1"});
  place.refuse(1, {"info", "tiny", "--tier", "sse"}, {"sse", "avx2"});
}

TEST(Usage, WordsBehindTwoDashesAreNoOptions) {
  const Workplace place;
  place.refuse(1, {"info", "--", "--quiet"}, {"--quiet: no such preset, file or folder"});
}

}  // namespace
}  // namespace samba::test
