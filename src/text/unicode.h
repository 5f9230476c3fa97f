#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/utf8.h"

namespace samba {

/// What the patterns of tokenizers tell apart: \p{L}, \p{N}, \s, and everything else.
enum class CharClass : std::uint8_t { letter, number, space, other };

/// The class of a code point (general category; the property White_Space for space).
CharClass char_class(char32_t code);

/// Whether \w matches the code point: letters, marks, decimal digits, connecting punctuation and
/// the two joiners.
bool is_word_char(char32_t code);

/// A character of valid UTF-8 text.
struct Char {
  char32_t code = 0;
  std::uint8_t bytes = 0;  ///< 0 at the end of the text
  CharClass kind = CharClass::other;
};

/// The classes of ASCII.
inline constexpr std::array<CharClass, 128> kAsciiClasses = [] {
  std::array<CharClass, 128> classes{};
  for (std::size_t c = 0; c < classes.size(); ++c) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    const bool space = c == ' ' || (c >= '\t' && c <= '\r');
    classes[c] = letter                 ? CharClass::letter
                 : c >= '0' && c <= '9' ? CharClass::number
                 : space                ? CharClass::space
                                        : CharClass::other;
  }
  return classes;
}();

/// The character at text[at]; one of 0 bytes at the end.
inline Char char_at(std::string_view text, std::size_t at) {
  if (at >= text.size()) return {};
  const auto first = static_cast<unsigned char>(text[at]);
  if (first < 0x80) return {first, 1, kAsciiClasses[first]};
  const std::size_t begin = at;
  const char32_t code = next_code_point(text, at);
  return {code, static_cast<std::uint8_t>(at - begin), char_class(code)};
}

/// Normalisation form C of valid UTF-8 (Unicode Standard Annex 15). Returns `text` itself where it
/// is in that form already, else a view of `buffer`.
std::string_view compose(std::string_view text, std::string& buffer);

}  // namespace samba
