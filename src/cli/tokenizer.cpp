#include "text/tokenizer.h"

#include <unistd.h>

#include <charconv>
#include <iostream>
#include <iterator>
#include <sstream>

#include "cli/command.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "core/error.h"
#include "core/files.h"
#include "core/human.h"
#include "core/utf8.h"
#include "text/train_tokenizer.h"

namespace samba {
namespace {

constexpr const char* kUsage =
    "sambalm tokenizer train TEXT... --vocab N --out FILE.model\n"
    "sambalm tokenizer encode TOKENIZER [TEXT]\n"
    "sambalm tokenizer decode TOKENIZER [IDS]\n\n"
    "Trains a SentencePiece model (BPE with byte fallback, as Llama 2's) on text files, JSONL or\n"
    "folders of them; turns text into ids and ids into text. TOKENIZER is a SentencePiece model, "
    "a\n"
    "tokenizer.json, GPT-2's encoder.json, or a folder with one of them. Without TEXT or IDS\n"
    "standard input is read; ids are separated by spaces, commas or line ends.";

struct TrainOptions {
  Common common;
  Index vocab = 32000;
  std::string out;

  void fields(auto& f) {
    f("vocab", vocab, "pieces, the 256 bytes and three marks among them");
    f("out", out, "the file to write");
    f("json", common.json, "write the result as JSON to this file; -: to standard output");
    f("quiet", common.quiet, "no messages");
  }
};

struct CodeOptions {
  Common common;
  void fields(auto& f) {
    f("json", common.json, "write the result as JSON to this file; -: to standard output");
  }
};

std::string standard_input() {
  return {std::istreambuf_iterator<char>(std::cin), {}};
}

int train(std::vector<std::string> words) {
  TrainOptions options;
  if (!parse(options, words, kUsage, 1, 10'000)) return 0;
  // Files whose names end so are read as a tokenizer.json.
  if (options.out.empty() || options.out.ends_with(".json"))
    throw UsageError("expected --out FILE.model");
  if (options.vocab < 1 || options.vocab > 1'000'000)
    fail("vocab: expected 1 to 1000000, found ", options.vocab);
  TokenizerTraining training;
  training.inputs = words;
  training.vocabulary = static_cast<std::int32_t>(options.vocab);
  const std::string bytes = train_tokenizer(training);
  const Tokenizer tokenizer = Tokenizer::from_bytes(bytes, options.out);
  watch_interrupts();  // the file appears whole or not at all
  write_text(options.out, bytes);
  if (!options.common.quiet)
    std::cerr << options.out << ": " << tokenizer.vocabulary() << " pieces, "
              << human_bytes(static_cast<double>(bytes.size())) << '\n';
  options.common.write_result({{"tokenizer", options.out},
                               {"vocabulary", tokenizer.vocabulary()},
                               {"hash", tokenizer.hash()}});
  return 0;
}

int encode(std::vector<std::string> words) {
  CodeOptions options;
  if (!parse(options, words, kUsage, 1, 2)) return 0;
  const Tokenizer tokenizer(words[0]);
  const std::string text = words.size() > 1 ? words[1] : standard_input();
  if (const std::size_t bad = first_invalid_utf8(text); bad != std::string::npos)
    fail(words.size() > 1 ? "text" : "standard input", ": found text that is not UTF-8 at byte ",
         bad);
  const std::vector<std::int32_t> ids = tokenizer.encode(text);
  if (options.common.json != "-") {
    for (std::size_t i = 0; i < ids.size(); ++i) std::cout << (i == 0 ? "" : " ") << ids[i];
    std::cout << '\n';
  }
  options.common.write_result({{"ids", ids}});
  return 0;
}

int decode(std::vector<std::string> words) {
  CodeOptions options;
  if (!parse(options, words, kUsage, 1, 2)) return 0;
  const Tokenizer tokenizer(words[0]);
  std::string text = words.size() > 1 ? words[1] : standard_input();
  for (char& c : text)
    if (c == ',') c = ' ';
  std::istringstream in(text);
  std::vector<std::int32_t> ids;
  for (std::string word; in >> word;) {
    std::int32_t id = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), id);
    if (error != std::errc{} || end != word.data() + word.size())
      fail("ids: expected whole numbers, found \"", word, "\"");
    ids.push_back(id);
  }
  const std::string decoded = tokenizer.decode(ids);
  if (options.common.json != "-") std::cout << decoded << '\n';
  options.common.write_result({{"text", decoded}});
  return 0;
}

}  // namespace

int run_tokenizer(const std::vector<std::string>& words) {
  const std::string what = words.empty() ? "" : words[0];
  const std::vector<std::string> rest(words.begin() + (words.empty() ? 0 : 1), words.end());
  if (what == "train") return train(rest);
  if (what == "encode") return encode(rest);
  if (what == "decode") return decode(rest);
  if (what == "--help" || what == "-h") return train({"--help"});
  throw UsageError("tokenizer: expected train, encode or decode");
}

}  // namespace samba
