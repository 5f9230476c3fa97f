#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "text/word_table.h"

namespace samba {

/// A file that a tokenizer is made from.
struct TokenizerFile {
  std::string name;   ///< in a model folder
  std::string place;  ///< the path, for errors
  std::string bytes;
};

/// Ids with a meaning of their own; -1 where a tokenizer has none.
struct Marks {
  std::int32_t bos = -1;
  std::int32_t eos = -1;
  std::int32_t unknown = -1;
  std::int32_t pad = -1;
};

/// Turns ids of one text into characters, one id after the other.
class TokenDecoder {
 public:
  virtual ~TokenDecoder() = default;
  /// The text that is certain after this id, which is below the vocabulary; whole characters only.
  virtual std::string push(std::int32_t id) = 0;
  /// The rest; the next push begins a new text.
  virtual std::string flush() = 0;
};

/// What a kind of tokenizer file has to say. Users of tokenizers see Tokenizer only. Nothing
/// changes after construction: threads share it.
class TokenModel {
 public:
  virtual ~TokenModel() = default;

  /// Ids are below it.
  virtual std::int32_t vocabulary() const = 0;
  virtual Marks marks() const = 0;
  /// Whether prompts begin with bos unless something else is asked for.
  virtual bool begins_with_bos() const = 0;
  /// The token as it stands in the file; "" for an id that the file leaves out.
  virtual std::string_view token(std::int32_t id) const = 0;
  /// Appends the ids of text, which is valid UTF-8 but for SentencePiece, which mends it. `words`
  /// may be null; it is used where cuts() says so and must have been used with this model only.
  virtual void encode(std::string_view text, WordTable* words,
                      std::vector<std::int32_t>& ids) const = 0;
  /// The same for text in which special tokens are written out, as a chat template writes them.
  virtual void encode_marked(std::string_view text, std::vector<std::int32_t>& ids) const = 0;
  /// Whether text is encoded word by word, so that a WordTable saves work.
  virtual bool cuts() const = 0;
  /// The model must outlive it.
  virtual std::unique_ptr<TokenDecoder> decoder() const = 0;
};

}  // namespace samba
