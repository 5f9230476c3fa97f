#include "text/tokenizer.h"

#include <gtest/gtest.h>
#include <sentencepiece_processor.h>

#include <fstream>
#include <random>

#include "core/files.h"
#include "core/json.h"
#include "core/utf8.h"
#include "model/temporary_folder.h"
#include "support/shared.h"
#include "text/encoder.h"
#include "text/piece_model.h"
#include "text/train_tokenizer.h"

namespace samba::test {
namespace {

using Ids = std::vector<std::int32_t>;

struct Vector {
  std::string text;
  Ids ids;
  std::string decoded;
};

std::vector<Vector> vectors(const std::string& path) {
  std::vector<Vector> all;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const Json json = parse_json(line, path);
    all.push_back({json.at("text"), json.at("ids"), json.at("decoded")});
  }
  return all;
}

Tokenizer small() {
  return Tokenizer(test_file("tokenizer/small.model"));
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

Ids words(const Tokenizer& tokenizer, const std::string& text) {
  Encoder encoder(tokenizer);
  Ids ids;
  encoder.encode(text, ids);
  // Once more, with every word known by now.
  Ids again;
  encoder.encode(text, again);
  EXPECT_EQ(ids, again);
  return ids;
}

void expect_vectors(const std::string& model, const std::string& path, std::size_t at_least) {
  const Tokenizer tokenizer(model);
  const auto all = vectors(path);
  ASSERT_GE(all.size(), at_least);
  Encoder encoder(tokenizer);
  EXPECT_TRUE(encoder.cuts());
  for (const Vector& vector : all) {
    EXPECT_EQ(tokenizer.encode(vector.text), vector.ids) << vector.text;
    EXPECT_EQ(words(tokenizer, vector.text), vector.ids) << vector.text;
    EXPECT_EQ(tokenizer.decode(vector.ids), vector.decoded) << vector.text;
    EXPECT_EQ(stream(tokenizer, vector.ids), vector.decoded) << vector.text;
  }
}

TEST(Tokenizer, AgreesWithTheLibraryOnTheSmallModel) {
  expect_vectors(test_file("tokenizer/small.model"), test_file("tokenizer/small.vectors.jsonl"),
                 35);
}

TEST(Tokenizer, AgreesWithTheVectorsOfLlama2) {
  const std::string vectors = shared_file("data/tokenizers/llama2/vectors.jsonl");
  SAMBA_SKIP_WITHOUT(vectors, "Llama-2 vectors");
  expect_vectors(shared_file("data/tokenizers/llama2/tokenizer.model"), vectors, 300);
}

TEST(Tokenizer, AgreesWithTheVectorsOfMistral) {
  const std::string vectors = shared_file("data/tokenizers/mistral/vectors.v1.jsonl");
  SAMBA_SKIP_WITHOUT(vectors, "Mistral vectors");
  expect_vectors(shared_file("data/tokenizers/mistral/tokenizer.model.v1"), vectors, 300);
}

TEST(Tokenizer, AgreesWithLlamaCppOnItsTexts) {
  const std::string input = shared_file("data/tokenizers/llama2/ggml-vocab-llama-spm.gguf.inp");
  SAMBA_SKIP_WITHOUT(input, "llama.cpp's tokenizer texts");
  const Tokenizer tokenizer(shared_file("data/tokenizers/llama2/tokenizer.model"));
  const std::string mark = "\n__ggml_vocab_test__\n";
  std::string texts = read_text(input);
  std::ifstream output(shared_file("data/tokenizers/llama2/ggml-vocab-llama-spm.gguf.out"));
  int count = 0;
  for (std::string line; std::getline(output, line); ++count) {
    const std::size_t end = texts.find(mark);
    const std::string text = texts.substr(0, end);
    texts.erase(0, end == texts.npos ? end : end + mark.size());
    Ids ids;
    std::istringstream numbers(line);
    for (std::int32_t id; numbers >> id;) ids.push_back(id);
    EXPECT_EQ(tokenizer.encode(text), ids) << text;
  }
  EXPECT_EQ(count, 46);
}

TEST(Tokenizer, ReadsAModelWithUserDefinedPieces) {
  const std::string path =
      shared_file("data/tokenizers/mistral/mistral_instruct_tokenizer_240323.model.v3");
  SAMBA_SKIP_WITHOUT(path, "Mistral v3 model");
  const Tokenizer tokenizer(path);
  EXPECT_EQ(tokenizer.vocabulary(), 32768);
  EXPECT_FALSE(Encoder(tokenizer).cuts());
  const std::string text = "See [REFERENCE_DOC_3] \n and <s>";
  EXPECT_EQ(words(tokenizer, text), tokenizer.encode(text));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
}

TEST(Tokenizer, KnowsItsMarks) {
  const Tokenizer tokenizer = small();
  EXPECT_EQ(tokenizer.vocabulary(), 700);
  EXPECT_EQ(tokenizer.unknown(), 0);
  EXPECT_EQ(tokenizer.bos(), 1);
  EXPECT_EQ(tokenizer.eos(), 2);
  EXPECT_EQ(tokenizer.pad(), -1);
  EXPECT_EQ(tokenizer.token(13), "<0x0A>");
  const Tokenizer copy = Tokenizer::from_bytes(tokenizer.files().front().bytes, "copy");
  EXPECT_EQ(copy.hash(), tokenizer.hash());
}

TEST(Tokenizer, FindsControlPiecesOnlyWhereTheyAreAskedFor) {
  const Tokenizer tokenizer = small();
  Ids expected = {1};
  for (const std::int32_t id : tokenizer.encode("[INST] Hi")) expected.push_back(id);
  expected.push_back(2);
  EXPECT_EQ(tokenizer.encode_marked("<s>[INST] Hi</s>"), expected);
  EXPECT_NE(tokenizer.encode("<s>[INST] Hi</s>"), expected);
  EXPECT_EQ(tokenizer.encode_marked("<unk>"), tokenizer.encode("<unk>"));
}

TEST(Tokenizer, RefusesIdsOutsideItsVocabulary) {
  const Tokenizer tokenizer = small();
  for (const std::int32_t id : {-1, 700, 32000})
    EXPECT_NE(error_of([&] { tokenizer.decode(Ids{5, id}); }).find("expected 0 to 699"),
              std::string::npos);
}

/// Random ids, half of them bytes, so that characters break and mend.
Ids random_ids(std::mt19937& random, std::int32_t vocabulary) {
  Ids ids(random() % 12);
  for (std::int32_t& id : ids) {
    const auto byte = static_cast<std::int32_t>(3 + random() % 256);
    id = random() % 2 == 0
             ? byte
             : static_cast<std::int32_t>(random() % static_cast<unsigned>(vocabulary));
    if (random() % 8 == 0) id = static_cast<std::int32_t>(random() % 3);
  }
  return ids;
}

TEST(StreamingDecoder, AgreesWithTheLibraryOnEverySequence) {
  const std::string shared = shared_file("data/tokenizers/llama2/tokenizer.model");
  for (const std::string& path : {test_file("tokenizer/small.model"), shared}) {
    if (path.empty()) continue;
    const Tokenizer tokenizer(path);
    sentencepiece::SentencePieceProcessor library;
    ASSERT_TRUE(library.Load(path).ok());
    std::mt19937 random(7);
    for (int i = 0; i < 20000; ++i) {
      const Ids ids = random_ids(random, tokenizer.vocabulary());
      std::string expected;
      ASSERT_TRUE(library.Decode(ids, &expected).ok());
      ASSERT_EQ(stream(tokenizer, ids), expected) << testing::PrintToString(ids);
      ASSERT_EQ(tokenizer.decode(ids), expected) << testing::PrintToString(ids);
    }
  }
}

TEST(StreamingDecoder, HoldsBackACharacterUntilItIsWhole) {
  const Tokenizer tokenizer = small();
  StreamingDecoder decoder(tokenizer);
  // U+1F600 is f0 9f 98 80; byte pieces begin at id 3.
  EXPECT_EQ(decoder.push(3 + 0xf0), "");
  EXPECT_EQ(decoder.push(3 + 0x9f), "");
  EXPECT_EQ(decoder.push(3 + 0x98), "");
  EXPECT_EQ(decoder.push(3 + 0x80), "\U0001f600");
  EXPECT_EQ(decoder.push(3 + 0xf0), "");
  EXPECT_EQ(decoder.flush(), "\ufffd");
  EXPECT_EQ(decoder.push(3 + 0x80), "\ufffd");
}

TEST(StreamingDecoder, DropsOnlyTheFirstSpaceOfAText) {
  const Tokenizer tokenizer = small();
  const Ids ids = tokenizer.encode("a  b");
  StreamingDecoder decoder(tokenizer);
  for (int round = 0; round < 2; ++round) {
    std::string text;
    for (const std::int32_t id : ids) text += decoder.push(id);
    EXPECT_EQ(text + decoder.flush(), "a  b");
  }
}

/// Texts of the characters that borders of words are made of.
std::string random_text(std::mt19937& random) {
  static const std::vector<std::string> parts = {" ",
                                                 " ",
                                                 "  ",
                                                 "\n",
                                                 "\n",
                                                 "a",
                                                 "the",
                                                 "st",
                                                 "\u2581",
                                                 "\t",
                                                 "\r\n",
                                                 "7",
                                                 "\u00e9",
                                                 "\u65e5",
                                                 "x",
                                                 ".",
                                                 std::string(1, '\0'),
                                                 "\u2580",
                                                 "\u0081",
                                                 "<s>",
                                                 "ing",
                                                 "T"};
  std::string text;
  for (std::size_t n = random() % 14; n > 0; --n) text += parts[random() % parts.size()];
  return text;
}

TEST(Encoder, CutsWhereNoIdChanges) {
  const std::string shared = shared_file("data/tokenizers/llama2/tokenizer.model");
  for (const std::string& path : {test_file("tokenizer/small.model"), shared}) {
    if (path.empty()) continue;
    const Tokenizer tokenizer(path);
    Encoder encoder(tokenizer);
    std::mt19937 random(11);
    for (int i = 0; i < 20000; ++i) {
      const std::string text = random_text(random);
      Ids ids;
      encoder.encode(text, ids);
      ASSERT_EQ(ids, tokenizer.encode(text)) << testing::PrintToString(text);
    }
  }
}

TEST(Encoder, AgreesOnAWholeBook) {
  const std::string path = shared_file("data/text/small/wikitext-2-raw.test.txt");
  SAMBA_SKIP_WITHOUT(path, "WikiText-2");
  const Tokenizer tokenizer(shared_file("data/tokenizers/llama2/tokenizer.model"));
  const std::string text = read_text(path);
  EXPECT_TRUE(words(tokenizer, text) == tokenizer.encode(text));
}

TEST(Tokenizer, RefusesFilesThatAreNoModels) {
  const TemporaryFolder folder;
  const std::string model = small().files().front().bytes;
  const auto refused = [&](const std::string& bytes) {
    const std::string path = folder / "bad.model";
    write_text(path, bytes);
    const std::string error = error_of([&] { Tokenizer tokenizer(path); });
    return error.starts_with(path + ": ");
  };
  EXPECT_NE(error_of([&] { Tokenizer tokenizer(folder / "none.model"); }).find("none.model"),
            std::string::npos);
  EXPECT_TRUE(refused(""));
  EXPECT_TRUE(refused("This is a text and no model."));
  EXPECT_TRUE(refused(std::string(1000, '\0')));
  EXPECT_TRUE(refused(std::string(1000, '\xff')));
  EXPECT_TRUE(refused("\x0a\xff\xff\xff\xff\x0f"));  // a piece of 4 GB
  EXPECT_TRUE(refused(model.substr(0, model.size() / 2)));
  EXPECT_TRUE(refused(model.substr(0, model.size() - 1)));
}

TEST(Tokenizer, SurvivesDamagedModels) {
  const std::string model = small().files().front().bytes;
  std::mt19937 random(3);
  for (int i = 0; i < 3000; ++i) {
    std::string damaged = model;
    for (std::size_t n = 1 + random() % 4; n > 0; --n)
      damaged[random() % damaged.size()] = static_cast<char>(random());
    try {
      const Tokenizer tokenizer = Tokenizer::from_bytes(damaged, "damaged");
      tokenizer.decode(tokenizer.encode("Some text, 42 \u00e9\n"));
      Ids ids;
      Encoder(tokenizer).encode("Some text, 42 \u00e9\n", ids);
    } catch (const Error&) {
    }
  }
}

TEST(TrainTokenizer, GivesTheSameModelTwiceWithTheRulesOfLlama2) {
  const TemporaryFolder folder;
  std::string text;
  for (int i = 0; i < 300; ++i)
    text += text_of("Line ", i, " of a text about ", i % 7, " ships and ", i % 11, "  harbours.\n");
  write_text(folder / "text.txt", text + std::string(5000, 'a') + " end");
  TokenizerTraining training;
  training.inputs = {folder / "text.txt"};
  training.vocabulary = 340;
  training.coverage = 1;
  const std::string model = train_tokenizer(training);
  EXPECT_EQ(train_tokenizer(training), model);
  const Tokenizer tokenizer = Tokenizer::from_bytes(model, "trained");
  const PieceModel pieces = parse_piece_model(model, "trained");
  EXPECT_EQ(tokenizer.vocabulary(), 340);
  EXPECT_EQ(tokenizer.bos(), 1);
  EXPECT_EQ(tokenizer.eos(), 2);
  EXPECT_TRUE(Encoder(tokenizer).cuts());
  EXPECT_TRUE(pieces.byte_fallback);
  const std::string round = "  ships\n\n \u00e9\U0001f600 12\t ";
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(round)), round);
  for (const Piece& piece : pieces.pieces) {
    const auto digits = std::count_if(piece.text.begin(), piece.text.end(),
                                      [](unsigned char c) { return c >= '0' && c <= '9'; });
    EXPECT_TRUE(piece.type != PieceType::normal || digits <= 1) << piece.text;
  }
  training.sample_bytes = 2000;
  EXPECT_NE(train_tokenizer(training), model);
}

TEST(TrainTokenizer, SaysWhatItLacks) {
  const TemporaryFolder folder;
  write_text(folder / "text.txt", "few words here\n");
  write_text(folder / "empty.txt", "\n\n");
  TokenizerTraining training;
  training.inputs = {folder / "text.txt"};
  training.vocabulary = 5000;
  EXPECT_NE(error_of([&] { train_tokenizer(training); }).find("too high (5000)"),
            std::string::npos);
  training.vocabulary = 100;
  EXPECT_NE(error_of([&] { train_tokenizer(training); }).find("cannot train"), std::string::npos);
  training.inputs = {folder / "empty.txt"};
  EXPECT_NE(error_of([&] { train_tokenizer(training); }).find("no text"), std::string::npos);
}

}  // namespace
}  // namespace samba::test
