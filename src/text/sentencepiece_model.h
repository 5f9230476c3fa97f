#pragma once

#include <memory>
#include <string>

#include "text/token_model.h"
#include "text/tokenizer_config.h"

namespace samba {

/// A SentencePiece `.model` file. Throws an Error that names it.
///
/// Words are cut out of a text as follows. BPE only ever joins neighbours into pieces of the
/// vocabulary. Where no piece contains the two characters on both sides of a border, nothing is
/// joined across it, and what is left and right of it can be encoded alone. For models whose pieces
/// have spaces only at their beginning, that is every border between another character and a space,
/// and, where no piece contains a line break, both sides of those. Any other model gets the text in
/// one piece.
std::unique_ptr<TokenModel> sentencepiece_model(const TokenizerFile& file,
                                                const TokenizerConfig& config);

}  // namespace samba
