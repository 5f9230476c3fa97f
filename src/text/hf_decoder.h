#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/character_buffer.h"
#include "text/json_node.h"
#include "text/normalizer.h"
#include "text/token_model.h"

namespace samba {

/// GPT-2's way to write bytes as printable characters: the byte for a code point of its alphabet;
/// -1 for others.
int byte_of_letter(char32_t code);

/// The bytes that a token in that alphabet stands for; false where a character is not of it.
bool spelled_bytes(std::string_view token, std::string& bytes);

/// How tokens become text (`decoder` of a tokenizer.json).
struct DecodeRules {
  bool bytes = true;               ///< ByteLevel: tokens are bytes in GPT-2's alphabet
  bool byte_fallback = false;      ///< tokens <0x00> to <0xFF> are bytes
  Replacements replaced;           ///< in each token
  std::string strip;               ///< a character that is dropped from the beginning of the text,
  std::int32_t strip_most = 0;     ///< at most so often
  std::string space;               ///< Metaspace: the character for a space; "": other rules
  bool drop_first_spaces = false;  ///< Metaspace: none in the first token
};

/// The rules at this place: ByteLevel, Metaspace, or a Sequence of Replace, ByteFallback, Fuse and
/// Strip in this order. Throws an Error on others, by their name.
DecodeRules parse_decoder(const JsonNode&);

/// What a token adds to the text.
struct Surface {
  enum class Kind : std::uint8_t { text, byte, hidden };
  std::string text;
  Kind kind = Kind::text;
};

/// The surface of a token that is not hidden.
Surface surface_of(std::string_view token, const DecodeRules& rules);

/// Decodes by surfaces, one for each id.
class HfDecoder final : public TokenDecoder {
 public:
  /// Both must outlive it.
  HfDecoder(const std::vector<Surface>& surfaces, const DecodeRules& rules)
      : surfaces_(surfaces), rules_(rules), buffer_(!rules.bytes) {}
  std::string push(std::int32_t id) override;
  std::string flush() override;

 private:
  const std::vector<Surface>& surfaces_;
  const DecodeRules& rules_;
  CharacterBuffer buffer_;
  bool first_ = true;          ///< no visible token yet
  bool began_ = false;         ///< some text was returned
  std::int32_t stripped_ = 0;  ///< characters dropped from the beginning

  std::string stripped(std::string text);
};

}  // namespace samba
