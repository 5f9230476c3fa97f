#pragma once

#include <string>
#include <vector>

#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/hf_decoder.h"
#include "text/normalizer.h"
#include "text/pre_tokenizer.h"
#include "text/token_model.h"
#include "text/tokenizer_config.h"

namespace samba {

/// What a tokenizer.json says.
struct HfFile {
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  DecodeRules decode;
  std::vector<std::string> tokens;  ///< as in the file, by id, added ones among them; "": no token
  std::vector<AddedToken> added;
  BpeModel model;
  Marks marks;
  bool begins_with_bos = false;
};

/// Reads and checks a tokenizer.json before anything large is made from it: ids are below 2^20 and
/// the number of the file's bytes, a merge joins tokens to a token, every byte has one. Throws an
/// Error "FILE: key: ...".
HfFile parse_hf_file(const TokenizerFile& file, const TokenizerConfig& config);

/// The same of GPT-2's pair.
HfFile parse_gpt2_files(const TokenizerFile& vocabulary, const TokenizerFile& merges,
                        const TokenizerConfig& config);

}  // namespace samba
