#include "text/train_tokenizer.h"

#include <sentencepiece_trainer.h>

#include <string_view>
#include <unordered_map>
#include <utility>

#include "core/error.h"
#include "core/hash.h"
#include "text/corpus.h"
#include "text/sentencepiece_status.h"

namespace samba {
namespace {

/// SentencePiece leaves out longer lines unless told otherwise; longer ones are cut at a space.
constexpr std::size_t kMaxLine = 4096;

/// Lines chosen by their hash, so that their bytes stay below a limit that is a share 2^-k of the
/// whole text, spread evenly over it.
class LineSample {
 public:
  explicit LineSample(std::size_t limit) : limit_(limit) {}

  void add(std::string_view line) {
    const std::uint64_t key = mix(fnv1a(line) + ++seen_);
    if (line.empty() || !chosen(key)) return;
    lines_.emplace_back(key, line);
    bytes_ += line.size();
    while (bytes_ > limit_ && level_ < 63) thin();
  }

  const std::vector<std::pair<std::uint64_t, std::string>>& lines() const { return lines_; }

 private:
  std::size_t limit_;
  std::size_t bytes_ = 0;
  std::uint64_t seen_ = 0;
  unsigned level_ = 0;
  std::vector<std::pair<std::uint64_t, std::string>> lines_;

  bool chosen(std::uint64_t key) const { return (key & ((std::uint64_t{1} << level_) - 1)) == 0; }

  void thin() {
    ++level_;
    std::erase_if(lines_, [&](const auto& line) {
      if (chosen(line.first)) return false;
      bytes_ -= line.second.size();
      return true;
    });
  }
};

class LineIterator : public sentencepiece::SentenceIterator {
 public:
  explicit LineIterator(const LineSample& sample) : lines_(sample.lines()) {}
  bool done() const override { return next_ == lines_.size(); }
  void Next() override { ++next_; }
  const std::string& value() const override { return lines_[next_].second; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  const std::vector<std::pair<std::uint64_t, std::string>>& lines_;
  std::size_t next_ = 0;
};

void add_lines(std::string_view text, LineSample& sample) {
  while (!text.empty()) {
    std::size_t size = std::min(text.find('\n'), text.size());
    std::size_t used = size + 1;
    if (size > kMaxLine) {
      used = text.rfind(' ', kMaxLine);
      if (used == text.npos || used == 0) {
        used = kMaxLine;
        while ((static_cast<unsigned char>(text[used]) & 0xc0) == 0x80) --used;
      }
      size = used;
    }
    sample.add(text.substr(0, size));
    text.remove_prefix(std::min(used, text.size()));
  }
}

}  // namespace

std::string train_tokenizer(const TokenizerTraining& training) {
  if (training.vocabulary < 1 || training.vocabulary > 1 << 20)
    fail("tokenizer: vocabulary: found ", training.vocabulary, "; expected 1 to ", 1 << 20);
  if (!(training.coverage > 0 && training.coverage <= 1))
    fail("tokenizer: coverage: found ", training.coverage, "; expected a share above 0, at most 1");
  LineSample sample(training.sample_bytes);
  Corpus corpus(corpus_files(training.inputs));
  for (Document document; corpus.next(document);) add_lines(document.text, sample);
  if (sample.lines().empty()) fail(training.inputs.front(), ": found no text to learn from");

  const std::unordered_map<std::string, std::string> options = {
      {"model_type", "bpe"},
      {"vocab_size", std::to_string(training.vocabulary)},
      {"character_coverage", text_of(training.coverage)},
      {"byte_fallback", "true"},
      {"split_digits", "true"},
      {"allow_whitespace_only_pieces", "true"},
      {"normalization_rule_name", "identity"},
      {"remove_extra_whitespaces", "false"},
      {"add_dummy_prefix", "true"},
      {"max_sentence_length", std::to_string(2 * kMaxLine)},
      // The model file records this number, so that it cannot follow the machine's.
      {"num_threads", "2"},
  };
  silence_sentencepiece();
  LineIterator lines(sample);
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(options, &lines, &model);
  if (!status.ok()) fail(training.inputs.front(), ": cannot train a tokenizer: ", reason(status));
  return model;
}

}  // namespace samba
