#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"

namespace samba {

/// Encodes as Tokenizer::encode does, id for id, but faster on large text: words that were seen
/// before come from a table of fixed size. For one thread.
///
/// BPE only ever joins neighbours into pieces of the vocabulary. Where no piece contains the two
/// characters on both sides of a border, nothing is joined across it, and what is left and right of
/// it can be encoded alone. For models whose pieces have spaces only at their beginning, that is
/// every border between another character and a space, and, where no piece contains a line break,
/// both sides of those. Any other model gets the text in one piece.
class Encoder {
 public:
  explicit Encoder(Tokenizer tokenizer);
  /// Appends the ids of text, without begin and end marks.
  void encode(std::string_view text, std::vector<std::int32_t>& ids);
  /// Whether the model allows to cut at words.
  bool cuts() const { return !table_.empty(); }

 private:
  /// A word that was seen before; 64 bytes.
  struct Word {
    std::uint8_t bytes = 0;
    std::uint8_t count = 0;
    char text[30];
    std::int32_t ids[8];
  };

  Tokenizer tokenizer_;
  std::vector<Word> table_;
  std::vector<std::int32_t> space_;  ///< the ids of a space alone
  std::int32_t line_break_ = -1;

  void append(std::string_view word, std::size_t skip, std::vector<std::int32_t>& ids);
};

}  // namespace samba
