#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace samba {

struct TokenizerTraining {
  std::vector<std::string> inputs;  ///< files and folders, read in this order (see Corpus)
  std::int32_t vocabulary = 32000;  ///< with the 256 byte pieces and <unk> 0, <s> 1, </s> 2
  double coverage = 0.99995;        ///< share of the characters that become pieces, not bytes
  /// Text to learn from, at most; of more, lines are chosen evenly by a hash.
  std::size_t sample_bytes = std::size_t{64} << 20;
};

/// Trains a SentencePiece BPE model with the rules of Llama 2's: bytes for unknown characters, text
/// left as it is, a space put before it, digits apart, pieces that never cross a space or a line
/// break. Returns the bytes of the `.model` file, which depend on the options and the text alone.
/// Throws an Error, for example when the text has too few words for the vocabulary.
std::string train_tokenizer(const TokenizerTraining&);

}  // namespace samba
