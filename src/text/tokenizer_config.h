#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace samba {

inline constexpr const char* kTokenizerConfig = "tokenizer_config.json";
inline constexpr const char* kChatTemplate = "chat_template.jinja";

/// What a tokenizer_config.json says of marks: tokens by their text, absent where it does not say.
struct TokenizerConfig {
  std::string place;  ///< the file, for errors; empty where there is none
  std::optional<std::string> bos, eos, unknown, pad;
  std::optional<bool> add_bos;
};

/// Reads the keys bos_token, eos_token, unk_token, pad_token (a string, or an object with it as
/// "content") and add_bos_token. Throws an Error that begins with `place`.
TokenizerConfig parse_tokenizer_config(std::string_view bytes, const std::string& place);

}  // namespace samba
