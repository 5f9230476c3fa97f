#include "text/llama2c_tokenizer.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <sstream>

#include "core/files.h"
#include "support/shared.h"
#include "text/tokenizer.h"

namespace samba::test {
namespace {

void append(std::string& to, const auto& value) {
  to.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

/// A tokenizer file with these pieces behind the marks and the bytes.
std::string file_of(const std::vector<std::string>& pieces, std::int32_t longest = 8) {
  std::string bytes;
  append(bytes, longest);
  const auto add = [&](const std::string& text, float score) {
    append(bytes, score);
    append(bytes, static_cast<std::int32_t>(text.size()));
    bytes += text;
  };
  for (const char* mark : {"<unk>", "\n<s>\n", "\n</s>\n"}) add(mark, 0);
  for (int i = 0; i < 256; ++i) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", static_cast<unsigned>(i));
    add(name, 0);
  }
  float score = 0;
  for (const std::string& piece : pieces) add(piece, score -= 1);
  return bytes;
}

TEST(Llama2cTokenizer, BecomesTheSentencePieceModelThatItWasMadeFrom) {
  const Tokenizer tokenizer = Tokenizer::from_bytes(
      sentencepiece_of_llama2c(file_of({" ab", " a", " ", "a", "b"}), "t"), "t");
  EXPECT_EQ(tokenizer.vocabulary(), 264);
  EXPECT_EQ(tokenizer.bos(), 1);
  EXPECT_EQ(tokenizer.eos(), 2);
  EXPECT_EQ(tokenizer.encode("ab a"), (std::vector<std::int32_t>{259, 260}));
  EXPECT_EQ(tokenizer.encode("z"), (std::vector<std::int32_t>{261, 3 + 'z'}));
  EXPECT_EQ(tokenizer.decode(std::vector<std::int32_t>{259, 260, 3 + '!'}), "ab a!");
}

TEST(Llama2cTokenizer, RefusesDamagedFiles) {
  const std::string good = file_of({"a"});
  const auto message = [](std::string bytes) {
    return error_of([&] { sentencepiece_of_llama2c(bytes, "tok.bin"); });
  };
  EXPECT_NE(message(good.substr(0, 2)).find("tok.bin: expected a tokenizer of llama2.c"),
            std::string::npos);
  EXPECT_NE(message(good.substr(0, good.size() - 3)).find("ends inside of a piece"),
            std::string::npos);
  EXPECT_NE(message(good.substr(0, good.size() - 1)).find("piece 259: expected 0 to 8 bytes"),
            std::string::npos);
  EXPECT_NE(message(file_of({"123456789"})).find("piece 259: expected 0 to 8 bytes, found 9"),
            std::string::npos);
  EXPECT_NE(message(file_of({})).find("expected more than 259 pieces"), std::string::npos);
}

TEST(Llama2cTokenizer, EncodesTheStoriesAsTheirProgramDoes) {
  const std::string folder = shared_file("data/weights/stories260K");
  SAMBA_SKIP_WITHOUT(folder, "data/weights/stories260K");
  const Tokenizer tokenizer(folder);
  std::vector<std::int32_t> ids;
  std::istringstream text(read_text(folder + "/greedy.tokens.txt"));
  for (std::int32_t id; text >> id;) ids.push_back(id);
  std::string expected = read_text(folder + "/greedy.text.txt");
  // The text goes on to the token that the last id gives.
  const std::string text_of_ids = tokenizer.decode(ids);
  EXPECT_EQ(expected.substr(0, text_of_ids.size()), text_of_ids);
  EXPECT_GT(text_of_ids.size(), 500u);
  EXPECT_EQ(tokenizer.prompt("").front(), tokenizer.bos());
}

}  // namespace
}  // namespace samba::test
