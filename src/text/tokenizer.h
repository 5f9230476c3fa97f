#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "text/token_model.h"

namespace samba {

/// The path of the tokenizer in a folder, or "" where there is none: the first of tokenizer.model
/// (SentencePiece), tokenizer.json (Hugging Face), encoder.json beside vocab.bpe and vocab.json
/// beside merges.txt (GPT-2), tok*.bin (llama2.c).
std::string find_tokenizer(const std::string& folder);

/// Text to ids and back, by the files of a SentencePiece, Hugging Face, GPT-2 or llama2.c
/// tokenizer. Cheap to copy: copies share the model. Any number of threads may use one.
class Tokenizer {
 public:
  /// Loads a file of at most 64 MiB: a tokenizer.json where its name ends in .json, encoder.json
  /// and vocab.json with the merges beside them, else a SentencePiece model; or what find_tokenizer
  /// finds in a folder. Beside a file under such a name, tokenizer_config.json (marks, chat
  /// template) and chat_template.jinja are read too. Throws an Error that names the file.
  explicit Tokenizer(const std::string& path);
  /// Loads the bytes of one such file; `name` stands for it in errors and tells its kind.
  static Tokenizer from_bytes(std::string bytes, const std::string& name);

  /// The ids of text, without begin and end marks. Text should be UTF-8 (see first_invalid_utf8):
  /// what is not becomes U+FFFD. Tokens that a tokenizer.json lists as added, special ones too, are
  /// found in the text, as they are elsewhere.
  std::vector<std::int32_t> encode(std::string_view text) const;
  /// The ids of a text to continue: of bos where the model was trained on texts that begin with it,
  /// then of the text. Never empty: eos, behind which documents
  /// begin, or bos where there is none, stands for no text.
  std::vector<std::int32_t> prompt(std::string_view text) const;
  /// The ids of text in which special tokens are written out, as a ChatTemplate writes them:
  /// encode, but of a SentencePiece model control pieces are found too, and what stands between two
  /// of them is a text of its own.
  std::vector<std::int32_t> encode_marked(std::string_view text) const;
  /// The text of ids. Control pieces and special tokens are invisible, the space that the model
  /// puts before a text is dropped, bytes that form no UTF-8 become U+FFFD. Throws an Error on an
  /// id outside the vocabulary.
  std::string decode(std::span<const std::int32_t> ids) const;

  /// Number of tokens; ids are below it.
  std::int32_t vocabulary() const { return model().vocabulary(); }
  /// Ids of the marks; -1 where the model has none.
  std::int32_t bos() const { return model().marks().bos; }
  std::int32_t eos() const { return model().marks().eos; }
  std::int32_t unknown() const { return model().marks().unknown; }
  std::int32_t pad() const { return model().marks().pad; }
  /// The token as it stands in the file, e.g. "▁the", "Ġthe" or "<0x0A>". Throws an Error on ids
  /// outside the vocabulary.
  std::string_view token(std::int32_t id) const;

  /// Identity of the tokenizer: FNV-1a (64 bits) in hexadecimal of the bytes that decide ids. Data
  /// and checkpoints keep it to refuse each other's ids.
  const std::string& hash() const;
  /// The files that it was made from.
  const std::vector<TokenizerFile>& files() const;
  /// Writes them into a folder, under the names that find_tokenizer knows.
  void write(const std::string& folder) const;
  /// The path, or the name given with the bytes.
  const std::string& name() const;
  const TokenModel& model() const;

 private:
  struct State;
  Tokenizer() = default;
  void load(std::vector<TokenizerFile> files, const std::string& name);
  std::shared_ptr<const State> state_;
};

/// Decodes ids one by one. What push() and flush() return never ends inside a character, and
/// concatenated it is what Tokenizer::decode returns for all ids.
class StreamingDecoder {
 public:
  explicit StreamingDecoder(Tokenizer tokenizer);
  /// The text that is certain after this id; may be empty. Throws an Error on an id outside the
  /// vocabulary.
  std::string push(std::int32_t id);
  /// The rest: bytes of an unfinished character become U+FFFD. The next push begins a new text.
  std::string flush();

 private:
  Tokenizer tokenizer_;
  std::unique_ptr<TokenDecoder> decoder_;
};

}  // namespace samba
