#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/piece_model.h"

namespace samba {

/// Text to ids and back with a SentencePiece model. Cheap to copy: copies share the model. Any
/// number of threads may use one.
class Tokenizer {
 public:
  /// Loads a `.model` file of at most 64 MiB. Throws an Error that names it.
  explicit Tokenizer(const std::string& path);
  /// Loads the bytes of such a file; `name` stands for it in errors.
  static Tokenizer from_bytes(std::string bytes, const std::string& name);

  /// The ids of text, without begin and end marks. Text should be UTF-8 (see first_invalid_utf8):
  /// every byte that is not becomes U+FFFD.
  std::vector<std::int32_t> encode(std::string_view text) const;
  /// The text of ids. Control pieces are invisible, a space at the very beginning is dropped as the
  /// model's dummy prefix, bytes that form no UTF-8 become U+FFFD each. Throws an Error on an id
  /// outside the vocabulary.
  std::string decode(std::span<const std::int32_t> ids) const;

  /// Number of pieces; ids are below it.
  std::int32_t vocabulary() const;
  /// Ids of the marks; -1 where the model has none.
  std::int32_t bos() const;
  std::int32_t eos() const;
  std::int32_t unknown() const;
  std::int32_t pad() const;
  /// The piece as it stands in the model, e.g. "▁the" or "<0x0A>". Throws an Error on other ids.
  const Piece& piece(std::int32_t id) const;

  /// Identity of the model: FNV-1a (64 bits) of its bytes in hexadecimal. Data and checkpoints
  /// keep it to refuse each other's ids.
  const std::string& hash() const;
  /// The file's bytes, for a copy in a checkpoint.
  const std::string& bytes() const;
  /// The path, or the name given with the bytes.
  const std::string& name() const;
  const PieceModel& model() const;

 private:
  struct State;
  Tokenizer() = default;
  std::shared_ptr<const State> state_;
};

/// Decodes ids one by one. What push() and flush() return never ends inside a character, and
/// concatenated it is what Tokenizer::decode returns for all ids.
class StreamingDecoder {
 public:
  explicit StreamingDecoder(Tokenizer tokenizer) : tokenizer_(std::move(tokenizer)) {}
  /// The text that is certain after this id; may be empty. Throws an Error on an id outside the
  /// vocabulary.
  std::string push(std::int32_t id);
  /// The rest: bytes of an unfinished character become U+FFFD each. The next push begins a new
  /// text.
  std::string flush();

 private:
  Tokenizer tokenizer_;
  std::string bytes_;     ///< of byte pieces, not yet a character
  bool began_ = false;    ///< some text was returned
  bool at_start_ = true;  ///< a space may still be the dummy prefix
  bool prefix_dropped_ = false;

  std::string settle_bytes(bool finish);
};

}  // namespace samba
