#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "text/json_node.h"

namespace samba {

/// The regular expressions that tokenizers cut text into words with. They are matched by hand: each
/// takes every character, looks at most one word ahead, and needs no backtracking.
enum class WordPattern : std::uint8_t {
  gpt2,    ///< contractions; letters, numbers, others, each with a space before; spaces
  cl100k,  ///< any sign before letters, up to 3 digits, line breaks on their own; also Llama 3's
  qwen2,   ///< as cl100k with single digits
};

/// Where the word that begins at text[begin] ends; begin is inside the text, valid UTF-8.
std::size_t word_end(WordPattern, std::string_view text, std::size_t begin);

/// Cuts normalised text into the words that merging may not cross (`pre_tokenizer` of a
/// tokenizer.json).
class PreTokenizer {
 public:
  /// Takes a word; the view is valid during the call.
  using Sink = std::function<void(std::string_view word)>;

  /// Whole texts as words.
  PreTokenizer() = default;
  /// The pre-tokenizer at this place: ByteLevel, Split by a known pattern, Digits, Metaspace, or a
  /// Sequence of them. Throws an Error on others, by their name.
  explicit PreTokenizer(const JsonNode&);
  /// Words of a pattern, as bytes.
  explicit PreTokenizer(WordPattern);

  /// Whether merging starts from bytes instead of characters.
  bool bytes() const { return bytes_; }
  /// Whether text is one word.
  bool whole() const;
  /// Cuts valid UTF-8 text; `first`: it begins the document.
  void cut(std::string_view text, bool first, const Sink& sink) const;

 private:
  struct Words {
    WordPattern pattern;
  };
  struct Digits {
    bool individual;
  };
  /// Puts a space before what does not begin with one.
  struct PrefixSpace {};
  /// Writes spaces as another character, and one before the text.
  struct Metaspace {
    enum class Prepend : std::uint8_t { never, first, always };
    std::string space;
    Prepend prepend;
    bool split;
  };
  using Step = std::variant<PrefixSpace, Words, Digits, Metaspace>;

  std::vector<Step> steps_;
  bool bytes_ = false;

  void add(const JsonNode&);
  void add_metaspace(const JsonNode&);
  void run(std::size_t step, std::string_view text, bool first, const Sink& sink) const;
  void run_metaspace(std::size_t step, std::string_view text, bool first, const Sink& sink) const;
};

}  // namespace samba
