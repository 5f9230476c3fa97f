#include <gtest/gtest.h>

#include <filesystem>

#include "cli/program.h"
#include "core/files.h"
#include "support/shared.h"

// A tokenizer.json serves wherever a SentencePiece model does.

namespace samba::test {
namespace {

namespace fs = std::filesystem;

class HuggingFaceFolder : public testing::Test, public Workplace {
 protected:
  HuggingFaceFolder() {
    write("tok/tokenizer.json", read_text(test_file("tokenizer/bytes.json")));
    write("tok/tokenizer_config.json", R"({"eos_token": "<|pad|>"})");
    write("text.jsonl", documents(200));
    write("mini.json", mini({{"vocab", 673}}).dump());
  }
};

TEST_F(HuggingFaceFolder, EncodesAndDecodes) {
  const std::string text = "The r\u00edver,  12 stones";
  for (const std::string tokenizer : {"tok", "tok/tokenizer.json"}) {
    const Json ids = result({"tokenizer", "encode", tokenizer, text})["ids"];
    std::string list;
    for (const Json& id : ids) list += id.dump() + " ";
    EXPECT_EQ(result({"tokenizer", "decode", tokenizer, list})["text"], text);
  }
  refuse(1, {"tokenizer", "decode", "tok", "673"}, {"tok: found id 673; expected 0 to 672"});
  write("bad.json", "{\"model\": {\"type\": \"Unigram\"}, \"decoder\": {\"type\": \"ByteLevel\"}}");
  refuse(1, {"tokenizer", "encode", "bad.json", "x"},
         {"bad.json: model.type: found \"Unigram\"; expected BPE"});
  fs::create_directory(*this / "empty");
  refuse(1, {"tokenizer", "encode", "empty", "x"}, {"empty: found no tokenizer; expected"});
}

TEST_F(HuggingFaceFolder, IsPreparedTrainedAndGeneratedFrom) {
  succeed({"prepare", "text.jsonl", "--tokenizer", "tok", "--out", "data", "--validation", "0.2"});
  EXPECT_EQ(read("data/train/tokenizer.json"), read("tok/tokenizer.json"));
  EXPECT_EQ(parse_json(read("data/train/meta.json"), "meta")["eos"], 1);
  succeed({"train", "mini.json", "--data", "data", "--out", "run", "--threads", "2"});
  EXPECT_EQ(read("run/step-00000002/tokenizer.json"), read("tok/tokenizer.json"));
  EXPECT_EQ(read("run/step-00000002/tokenizer_config.json"), read("tok/tokenizer_config.json"));
  const Json generated = result({"generate", "run", "the river", "--tokens", "5"});
  EXPECT_EQ(generated["tokens"], 5);
  const std::string config = "run/step-00000002/tokenizer_config.json";
  refuse(1, {"generate", "run", "the river", "--chat"}, {"found no chat template; expected"});
  write(config, R"({"eos_token": "<|pad|>", "chat_template":
      "{{ eos_token }}{{ messages[0].role }}: {{ messages[0].content }}{{ eos_token }}"})");
  const Json answer = result({"generate", "run", "the river", "--chat", "--tokens", "5"});
  const Json plain = result({"tokenizer", "encode", "tok", "<|pad|>user: the river<|pad|>"});
  EXPECT_EQ(answer["prompt_tokens"], plain["ids"].size());
  write(config, R"({"chat_template": "{{ messages | tojson }}"})");
  refuse(1, {"generate", "run", "the river", "--chat"},
         {config + ": chat_template: line 1: found the filter \"tojson\"; expected"});
  succeed({"eval", "perplexity", "run", "--data", "data", "--sequences", "1", "--lengths", "16"});

  // The folder's own tokenizer decides, and data of another is refused.
  fs::remove(*this / "run/step-00000002/tokenizer_config.json");
  write("run/step-00000002/tokenizer.json", read_text(test_file("tokenizer/characters.json")));
  refuse(1, {"eval", "perplexity", "run", "--data", "data"}, {"packed with the tokenizer "});
}

}  // namespace
}  // namespace samba::test
