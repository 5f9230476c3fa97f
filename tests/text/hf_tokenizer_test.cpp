#include <gtest/gtest.h>
#include <sentencepiece_processor.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <map>
#include <numeric>
#include <optional>
#include <random>
#include <sstream>

#include "core/files.h"
#include "core/json.h"
#include "core/utf8.h"
#include "model/temporary_folder.h"
#include "support/shared.h"
#include "text/byte_stream.h"
#include "text/encoder.h"

// tokenizer.json and GPT-2's pair against ids from elsewhere: tests/data/README.md names the
// sources.

namespace samba::test {
namespace {

using Ids = std::vector<std::int32_t>;

std::vector<std::string> lines_of(const std::string& path) {
  std::vector<std::string> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

Ids ids_of(const std::string& line) {
  Ids ids;
  std::istringstream numbers(line);
  for (std::int32_t id; numbers >> id;) ids.push_back(id);
  return ids;
}

std::string stream(const Tokenizer& tokenizer, const Ids& ids) {
  StreamingDecoder decoder(tokenizer);
  std::string text;
  for (const std::int32_t id : ids) {
    const std::string piece = decoder.push(id);
    EXPECT_EQ(first_invalid_utf8(piece), piece.npos);
    text += piece;
  }
  return text + decoder.flush();
}

/// Encodes in every way that there is, and decodes what comes out.
class Checked {
 public:
  explicit Checked(Tokenizer tokenizer) : tokenizer_(std::move(tokenizer)), encoder_(tokenizer_) {}

  void expect(const std::string& text, const Ids& ids) {
    EXPECT_EQ(tokenizer_.encode(text), ids) << testing::PrintToString(text);
    Ids again;
    for (int round = 0; round < 2; ++round) {
      again.clear();
      encoder_.encode(text, again);
      EXPECT_EQ(again, ids) << testing::PrintToString(text);
    }
  }
  void expect_decoded(const Ids& ids, const std::string& text) {
    EXPECT_EQ(tokenizer_.decode(ids), text) << testing::PrintToString(ids);
    EXPECT_EQ(stream(tokenizer_, ids), text) << testing::PrintToString(ids);
  }

 private:
  Tokenizer tokenizer_;
  Encoder encoder_;
};

Json small(const std::string& name) {
  return read_json(test_file("tokenizer/" + name));
}

Tokenizer tokenizer_of(const Json& document) {
  return Tokenizer::from_bytes(document.dump(), "t.json");
}

TEST(HfTokenizer, AgreesWithTheReferenceOnEveryVariant) {
  std::optional<Checked> checked;
  std::map<std::string, int> cases;
  std::string name;
  for (const std::string& line : lines_of(test_file("tokenizer/variants.jsonl"))) {
    const Json json = parse_json(line, "variants.jsonl");
    if (json.contains("base")) {
      name = json.at("base").get<std::string>() + ", " + json.at("name").get<std::string>();
      Json document = small(json.at("base"));
      document.merge_patch(json.at("patch"));
      checked.emplace(tokenizer_of(document));
      continue;
    }
    const testing::ScopedTrace trace(__FILE__, __LINE__, name);
    checked->expect(json.at("text"), json.at("ids"));
    checked->expect_decoded(json.at("ids"), json.at("decoded"));
    ++cases[name];
  }
  EXPECT_EQ(cases.size(), 13u);
  for (const auto& [variant, count] : cases) EXPECT_EQ(count, 74) << variant;
}

TEST(HfTokenizer, TakesMergesAsPairsAndAsStrings) {
  Json document = small("bytes.json");
  const Ids ids = tokenizer_of(document).encode("The harbour, there.");
  for (Json& merge : document["model"]["merges"]) {
    const auto text = merge.get<std::string>();
    const std::size_t space = text.find(' ');
    merge = {text.substr(0, space), text.substr(space + 1)};
  }
  EXPECT_EQ(tokenizer_of(document).encode("The harbour, there."), ids);
}

TEST(HfTokenizer, AgreesWithTheVectorsOfGpt2) {
  const std::string vectors = shared_file("data/tokenizers/gpt2/vectors.jsonl");
  SAMBA_SKIP_WITHOUT(vectors, "GPT-2 vectors");
  Checked checked{Tokenizer(shared_file("data/tokenizers/gpt2"))};
  const auto lines = lines_of(vectors);
  EXPECT_EQ(lines.size(), 332u);
  for (const std::string& line : lines) {
    const Json json = parse_json(line, vectors);
    checked.expect(json.at("text"), json.at("ids"));
    checked.expect_decoded(json.at("ids"), json.at("text"));
  }
}

TEST(HfTokenizer, AgreesWithLlamaCppOnGpt2) {
  const std::string input = shared_file("data/tokenizers/gpt2/ggml-vocab-gpt-2.gguf.inp");
  SAMBA_SKIP_WITHOUT(input, "llama.cpp's tokenizer texts");
  Checked checked{Tokenizer(shared_file("data/tokenizers/gpt2/encoder.json"))};
  const std::string mark = "\n__ggml_vocab_test__\n";
  std::string texts = read_text(input);
  const auto expected = lines_of(shared_file("data/tokenizers/gpt2/ggml-vocab-gpt-2.gguf.out"));
  EXPECT_EQ(expected.size(), 46u);
  for (const std::string& line : expected) {
    const std::size_t end = texts.find(mark);
    checked.expect(texts.substr(0, end), ids_of(line));
    texts.erase(0, end == texts.npos ? end : end + mark.size());
  }
}

TEST(HfTokenizer, AgreesWithTheReferenceOnGptNeoX) {
  const std::string packed = shared_file("data/tokenizers/gpt_neox/20B_tokenizer.json.zst");
  SAMBA_SKIP_WITHOUT(packed, "GPT-NeoX tokenizer");
  ByteStream file(packed);
  std::string bytes(std::size_t{16} << 20, '\0');
  bytes.resize(file.read(bytes.data(), bytes.size()));
  const Tokenizer tokenizer = Tokenizer::from_bytes(bytes, "20B_tokenizer.json");
  EXPECT_EQ(tokenizer.vocabulary(), 50277);
  EXPECT_EQ(tokenizer.eos(), 0);
  EXPECT_EQ(tokenizer.token(273), "\u0120of");
  Checked checked(tokenizer);
  const auto texts = lines_of(shared_file("data/tokenizers/gpt2/vectors.jsonl"));
  const auto ids = lines_of(test_file("tokenizer/gpt_neox.ids"));
  ASSERT_EQ(texts.size(), ids.size());
  for (std::size_t i = 0; i < ids.size(); ++i)
    checked.expect(parse_json(texts[i], "vectors.jsonl").at("text"), ids_of(ids[i]));
}

/// A SentencePiece BPE model as the text of a tokenizer.json: all ways to join two pieces to a
/// third, those of the highest score first.
std::string converted(const std::string& path) {
  sentencepiece::SentencePieceProcessor model;
  EXPECT_TRUE(model.Load(path).ok());
  std::vector<int> pieces(static_cast<std::size_t>(model.GetPieceSize()));
  std::iota(pieces.begin(), pieces.end(), 0);
  std::map<std::string, int> ids;
  for (const int id : pieces) ids[model.IdToPiece(id)] = id;
  // Text, as to fill an object of 32,000 keys takes a search for each of them.
  std::string vocabulary;
  for (const auto& [piece, id] : ids)
    vocabulary += text_of(vocabulary.empty() ? "{" : ",", Json(piece).dump(), ":", id);
  std::stable_sort(pieces.begin(), pieces.end(),
                   [&](int a, int b) { return model.GetScore(a) > model.GetScore(b); });
  Json document = small("characters.json");
  document["model"]["vocab"] = Json::object();
  Json& merges = document["model"]["merges"] = Json::array();
  for (const int id : pieces) {
    const std::string& piece = model.IdToPiece(id);
    for (std::size_t at = 1; at < piece.size() && model.GetScore(id) != 0; ++at) {
      const std::string left = piece.substr(0, at), right = piece.substr(at);
      if (ids.contains(left) && ids.contains(right)) merges.push_back({left, right});
    }
  }
  std::string text = document.dump();
  return text.replace(text.find("\"vocab\":{}") + 8, 2, vocabulary + "}");
}

TEST(HfTokenizer, AgreesWithSentencePieceOnLlama2) {
  const std::string vectors = shared_file("data/tokenizers/llama2/vectors.jsonl");
  SAMBA_SKIP_WITHOUT(vectors, "Llama-2 vectors");
  const Tokenizer tokenizer = Tokenizer::from_bytes(
      converted(shared_file("data/tokenizers/llama2/tokenizer.model")), "llama.json");
  EXPECT_TRUE(Encoder(tokenizer).cuts());
  EXPECT_EQ(tokenizer.bos(), 1);
  EXPECT_EQ(tokenizer.eos(), 2);
  EXPECT_EQ(tokenizer.unknown(), 0);
  Checked checked(tokenizer);
  int count = 0;
  for (const std::string& line : lines_of(vectors)) {
    const Json json = parse_json(line, vectors);
    const auto text = json.at("text").get<std::string>();
    // SentencePiece reads these as text.
    if (text.find("<s>") != text.npos) continue;
    checked.expect(text, json.at("ids"));
    checked.expect_decoded(json.at("ids"), json.at("decoded"));
    ++count;
  }
  EXPECT_EQ(count, 331);
}

TEST(HfTokenizer, HoldsBackACharacterUntilItIsWhole) {
  const Tokenizer tokenizer(test_file("tokenizer/bytes.json"));
  const Ids ids = tokenizer.encode("\U0001f600!");
  ASSERT_EQ(ids.size(), 5u);
  StreamingDecoder decoder(tokenizer);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(decoder.push(ids[i]), "");
  EXPECT_EQ(decoder.push(ids[3]), "\U0001f600");
  EXPECT_EQ(decoder.push(ids[0]), "");
  EXPECT_EQ(decoder.push(ids[1]), "");
  EXPECT_EQ(decoder.push(ids[4]), "\ufffd!");
  EXPECT_EQ(decoder.push(ids[0]), "");
  EXPECT_EQ(decoder.flush(), "\ufffd");
  EXPECT_NE(error_of([&] { decoder.push(673); }).find("found id 673; expected 0 to 672"),
            std::string::npos);
}

TEST(HfTokenizer, ReplacesWhatIsNotUtf8) {
  const Tokenizer tokenizer(test_file("tokenizer/bytes.json"));
  EXPECT_EQ(tokenizer.encode("caf\xe9 \xf0\x9f!"), tokenizer.encode("caf\ufffd \ufffd!"));
}

TEST(HfTokenizer, TakesTimeInProportionToTheText) {
  const Tokenizer bytes(test_file("tokenizer/bytes.json"));
  const Tokenizer characters(test_file("tokenizer/characters.json"));
  for (const std::string& part : {std::string("a"), std::string(" "), std::string("the"),
                                  std::string("\u65e5"), std::string("'"), std::string("\n ")}) {
    std::string text;
    while (text.size() < (std::size_t{1} << 20)) text += part;
    for (const Tokenizer& tokenizer : {bytes, characters}) {
      const auto start = std::chrono::steady_clock::now();
      const Ids ids = tokenizer.encode(text);
      EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5)) << part;
      EXPECT_EQ(tokenizer.decode(ids), text);
    }
  }
}

class ModelFolder : public testing::Test {
 protected:
  TemporaryFolder folder_;

  void config(const Json& document) { write_json(folder_ / "tokenizer_config.json", document); }
  void tokenizer(const std::string& name, const std::string& as) {
    write_text(folder_ / as, read_text(test_file("tokenizer/" + name)));
  }
};

TEST_F(ModelFolder, HoldsOneTokenizerOfAnyKind) {
  const std::string folder = folder_ / "";
  EXPECT_EQ(find_tokenizer(folder), "");
  EXPECT_NE(
      error_of([&] { Tokenizer{folder}; }).find("found no tokenizer; expected tokenizer.model"),
      std::string::npos);
  tokenizer("bytes.json", "vocab.json");
  EXPECT_EQ(find_tokenizer(folder), "");
  // The pair of the small tokenizer, without its added tokens.
  const Json model = small("bytes.json").at("model");
  std::string merges = "#version: 0.2\n";
  for (const Json& merge : model.at("merges")) merges += merge.get<std::string>() + "\n";
  write_text(folder_ / "vocab.json", model.at("vocab").dump());
  write_text(folder_ / "merges.txt", merges);
  const Tokenizer pair(folder);
  EXPECT_EQ(pair.vocabulary(), 658);
  EXPECT_EQ(pair.eos(), 0);
  EXPECT_EQ(pair.decode(pair.encode("<|endoftext|>")), "<|endoftext|>");

  tokenizer("bytes.json", "tokenizer.json");
  const Tokenizer bytes(folder);
  EXPECT_EQ(bytes.vocabulary(), 673);
  EXPECT_EQ(bytes.encode("The harbour"), pair.encode("The harbour"));
  EXPECT_NE(bytes.hash(), pair.hash());
  EXPECT_EQ(bytes.hash(), Tokenizer(test_file("tokenizer/bytes.json")).hash());

  tokenizer("small.model", "tokenizer.model");
  EXPECT_EQ(Tokenizer(folder).vocabulary(), 700);
}

TEST_F(ModelFolder, IsWrittenWithAllThatWasRead) {
  tokenizer("bytes.json", "tokenizer.json");
  config({{"eos_token", "<|pad|>"}});
  write_text(folder_ / "chat_template.jinja", "a template");
  make_folder(folder_ / "copy");
  const Tokenizer original(folder_ / "");
  original.write(folder_ / "copy");
  const Tokenizer copy(folder_ / "copy");
  EXPECT_EQ(copy.eos(), 1);
  EXPECT_EQ(copy.hash(), original.hash());
  EXPECT_EQ(read_text(folder_ / "copy/chat_template.jinja"), "a template");
}

TEST_F(ModelFolder, NamesMarksInItsConfiguration) {
  tokenizer("characters.json", "tokenizer.json");
  const Tokenizer alone(folder_ / "");
  EXPECT_EQ(alone.bos(), 1);
  EXPECT_EQ(alone.eos(), 2);
  EXPECT_EQ(alone.pad(), -1);
  // Its post-processor puts <s> first.
  Ids expected = alone.encode("x");
  expected.insert(expected.begin(), 1);
  EXPECT_EQ(alone.prompt("x"), expected);

  config({{"bos_token", {{"content", "</s>"}}},
          {"eos_token", "<s>"},
          {"pad_token", "<unk>"},
          {"add_bos_token", false}});
  const Tokenizer named(folder_ / "");
  EXPECT_EQ(named.bos(), 2);
  EXPECT_EQ(named.eos(), 1);
  EXPECT_EQ(named.pad(), 0);
  EXPECT_EQ(named.prompt("x"), alone.encode("x"));
  EXPECT_EQ(named.prompt(""), Ids{1});

  const auto refused = [&](const Json& document, const std::string& part) {
    config(document);
    const std::string error = error_of([&] { Tokenizer{folder_ / ""}; });
    EXPECT_TRUE(error.starts_with(folder_ / "tokenizer_config.json: ")) << error;
    EXPECT_NE(error.find(part), error.npos) << error;
  };
  refused({{"eos_token", "<end>"}}, "eos_token: found \"<end>\"; expected a token");
  refused({{"eos_token", 3}}, "eos_token: found a number; expected a string");
  refused({{"add_bos_token", "yes"}}, "add_bos_token: found a string; expected true or false");
  refused(Json::array(), "found a list; expected an object");
}

TEST(HfTokenizer, RefusesWhatItDoesNotImplementByName) {
  const auto refused = [](const std::string& base, const Json& patch, const std::string& part) {
    Json document = small(base);
    document.merge_patch(patch);
    const std::string error = error_of([&] { tokenizer_of(document); });
    EXPECT_TRUE(error.starts_with("t.json: ")) << error;
    EXPECT_NE(error.find(part), error.npos) << error << "\n  expected " << part;
    EXPECT_EQ(error.find('\n'), error.npos) << error;
  };
  const auto in_bytes = [&](const Json& patch, const std::string& part) {
    refused("bytes.json", patch, part);
  };
  in_bytes({{"normalizer", {{"type", "NFKC"}}}},
           "normalizer.type: found \"NFKC\"; expected NFC, Prepend, Replace or Sequence");
  in_bytes({{"normalizer", {{"type", "Replace"}, {"pattern", {{"Regex", "a+"}}}, {"content", ""}}}},
           "normalizer.pattern: found no \"String\"");
  in_bytes({{"normalizer",
             {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "123456789"}}}},
           "normalizer.content: found \"123456789\"; expected text at most 8 times as long");
  in_bytes({{"pre_tokenizer", {{"type", "BertPreTokenizer"}}}},
           "pre_tokenizer.type: found \"BertPreTokenizer\"; expected ByteLevel, Split");
  in_bytes({{"pre_tokenizer", {{"type", "Split"}, {"pattern", {{"Regex", "\\w+"}}}}}},
           "pre_tokenizer.pattern.Regex: found \"\\w+\"; expected the pattern of GPT-2");
  in_bytes({{"decoder", {{"type", "WordPiece"}}}}, "decoder.type: found \"WordPiece\"");
  in_bytes({{"decoder", nullptr}}, "found no \"decoder\"");
  in_bytes({{"post_processor", {{"type", "BertProcessing"}}}},
           "post_processor.type: found \"BertProcessing\"");
  in_bytes({{"model", {{"type", "Unigram"}}}}, "model.type: found \"Unigram\"; expected BPE");
  in_bytes({{"model", {{"dropout", 0.1}}}}, "model.dropout: ");
  in_bytes({{"model", {{"end_of_word_suffix", "</w>"}}}},
           "model.end_of_word_suffix: found \"</w>\"; expected none");
  refused("characters.json",
          {{"decoder", {{"type", "Sequence"}, {"decoders", {{{"type", "Strip"}}}}}}},
          "decoder.decoders[0].type: found \"Strip\"; expected it behind Fuse");
  refused("characters.json", {{"model", {{"vocab", {{"<0x41>", nullptr}}}}}},
          "model.vocab: found no token for the byte 65");
}

TEST(HfTokenizer, NamesWhatIsWrongInAFile) {
  const auto refused = [](const Json& patch, const std::string& part) {
    Json document = small("bytes.json");
    document.merge_patch(patch);
    const std::string error = error_of([&] { tokenizer_of(document); });
    EXPECT_TRUE(error.starts_with("t.json: ")) << error;
    EXPECT_NE(error.find(part), error.npos) << error << "\n  expected " << part;
  };
  const auto vocab = [&](const Json& patch, const std::string& part) {
    refused({{"model", {{"vocab", patch}}}}, part);
  };
  vocab({{"x!", -1}}, "model.vocab[\"x!\"]: found -1; expected a whole number from 0 to ");
  vocab({{"x!", 1048576}}, "found 1048576; expected");
  vocab({{"x!", 100'000}}, "found 100000; expected");  // more than the file has bytes
  vocab({{"x!", 1e300}}, "expected a whole number");
  vocab({{"x!", 1.5}}, "found 1.5; expected");
  vocab({{"x!", "1"}}, "found a string; expected a whole number");
  vocab({{"x!", 5}}, "model.vocab[\"x!\"]: found id 5, that of ");
  vocab({{std::string(5000, 'x'), 700}}, "found a token of 5000 bytes; expected at most 4096");
  vocab({{"a", nullptr}}, "expected a token of the vocabulary");
  refused({{"model", {{"vocab", 3}}}}, "model.vocab: found a number; expected an object");
  refused({{"model", {{"vocab", nullptr}}}}, "model: found no \"vocab\"; expected it");
  refused({{"model", nullptr}}, "found no \"model\"; expected it");
  const auto merges = [&](const Json& list, const std::string& part) {
    refused({{"model", {{"merges", list}}}}, part);
  };
  merges({"a b c"}, "model.merges[0]: found \"a b c\"; expected two tokens with a space");
  merges({"ab"}, "model.merges[0]: found \"ab\"; expected two tokens");
  merges({"t h", "q z"}, "model.merges[1]: found \"qz\"; expected a token of the vocabulary");
  merges(Json::array({Json::array({"a", "b", "c"})}),
         "model.merges[0]: found 3 elements; expected two tokens");
  merges(Json::array({Json::array({"a", ""})}), "model.merges[0]: found \"\"; expected a token");
  merges({3}, "model.merges[0]: found a number; expected a list");
  const auto added = [&](const Json& token, const std::string& part) {
    refused({{"added_tokens", {token}}}, part);
  };
  added({{"id", 5}, {"content", "<x>"}}, "added_tokens[0].id: found 5, that of ");
  added({{"id", 9999999}, {"content", "<x>"}}, "added_tokens[0].id: found 9999999; expected");
  added({{"id", 700}, {"content", "<|pad|>"}}, "added_tokens[0].id: found 700 for \"<|pad|>\"");
  added({{"id", 700}, {"content", ""}}, "added_tokens[0].content: found 0 bytes");
  added({{"id", 700}, {"content", "x!"}, {"lstrip", 1}}, "added_tokens[0].lstrip: found a number");
  added("x", "added_tokens[0]: found a string; expected an object");

  const auto many = [&](const char* part, const char* list, const Json& step) {
    const Json steps = std::vector<Json>(100'000, step);
    refused({{part, {{"type", "Sequence"}, {list, steps}}}},
            text_of(part, ".", list, "[64]: found more than 64 steps"));
  };
  const Json replace = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "b"}};
  many("normalizer", "normalizers", {{"type", "NFC"}});
  many("pre_tokenizer", "pretokenizers", {{"type", "Digits"}});
  many("decoder", "decoders", replace);

  const auto bytes = [](const std::string& text, const std::string& part) {
    const std::string error = error_of([&] { Tokenizer::from_bytes(text, "t.json"); });
    EXPECT_TRUE(error.starts_with("t.json: ")) << error;
    EXPECT_NE(error.find(part), error.npos) << error << "\n  expected " << part;
  };
  const std::string whole = read_text(test_file("tokenizer/bytes.json"));
  bytes("", "expected a JSON object");
  bytes("[]", "found a list; expected an object");
  bytes(whole.substr(0, whole.size() / 2), "found text that is no JSON");
  bytes(std::string(100'000, '['), "found text that is no JSON");
  bytes("{\"model\":{\"vocab\":{\"\xff\":1}}}", "found text that is no JSON");
  bytes("{\"model\":{\"vocab\":{\"a\":99999999999999999999}}}", "found text that is no JSON");
}

TEST(HfTokenizer, NamesTheLineOfABadMerge) {
  const TemporaryFolder folder;
  write_text(folder / "encoder.json", small("bytes.json").at("model").at("vocab").dump());
  const auto refused = [&](const std::string& merges, const std::string& part) {
    write_text(folder / "vocab.bpe", merges);
    const std::string error = error_of([&] { Tokenizer{folder / "encoder.json"}; });
    EXPECT_TRUE(error.starts_with(folder / part)) << error;
  };
  refused("#version: 0.2\nt h\nq z\n", "vocab.bpe:3: found \"qz\"; expected a token");
  refused("#version: 0.2\r\nt h\r\nth\r\n", "vocab.bpe:3: found \"th\"; expected two tokens");
  refused("\xff\xfe t\n", "vocab.bpe:1: found \"\ufffd\ufffd\"; expected a token");
  write_text(folder / "encoder.json", "{\"a\": 0}");
  refused("", "encoder.json: found no token for the byte 0; expected one for each");
}

TEST(HfTokenizer, SurvivesDamagedFiles) {
  std::mt19937 random(5);
  for (const std::string name : {"bytes.json", "characters.json"}) {
    const std::string whole = read_text(test_file("tokenizer/" + name));
    for (int i = 0; i < 1500; ++i) {
      std::string damaged = whole;
      for (std::size_t n = 1 + random() % 4; n > 0; --n)
        damaged[random() % damaged.size()] =
            random() % 2 == 0 ? static_cast<char>(random()) : "{}[]\",:0"[random() % 8];
      try {
        const Tokenizer tokenizer = Tokenizer::from_bytes(damaged, "damaged.json");
        tokenizer.decode(tokenizer.encode("Some text,   42 \u00e9\n<s>"));
      } catch (const Error& error) {
        EXPECT_TRUE(std::string_view(error.what()).starts_with("damaged.json: ")) << error.what();
      }
    }
  }
}

}  // namespace
}  // namespace samba::test
