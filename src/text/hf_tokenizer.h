#pragma once

#include <memory>

#include "text/token_model.h"
#include "text/tokenizer_config.h"

namespace samba {

/// A tokenizer.json of Hugging Face tokenizers with a BPE model: byte-level as GPT-2's, GPT-NeoX's
/// and Llama 3's, or of characters with byte fallback as Llama 2's. `truncation`, `padding` and
/// what the post-processor adds are left to the caller: a TemplateProcessing that begins with a
/// special token only says that prompts begin with it. Marks that the configuration does not name
/// are tokens of well-known names. Throws an Error that names the file and the key on anything
/// else.
std::unique_ptr<TokenModel> hf_tokenizer(const TokenizerFile& file, const TokenizerConfig& config);

/// The pair of GPT-2: a JSON object of tokens and ids, and a text of merges, one a line. Nothing is
/// found in text as a token: <|endoftext|> there is text.
std::unique_ptr<TokenModel> gpt2_tokenizer(const TokenizerFile& vocabulary,
                                           const TokenizerFile& merges,
                                           const TokenizerConfig& config);

}  // namespace samba
