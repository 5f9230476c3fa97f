#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace samba {

/// Stands for bytes that are no UTF-8.
inline constexpr char32_t kReplacement = 0xFFFD;

/// The code point that starts at text[at], which must exist; moves `at` behind it. Any bytes may be
/// given: kReplacement stands for each malformed piece, cut as the Unicode Standard recommends
/// (version 15, section 3.9, "maximal subparts").
char32_t next_code_point(std::string_view text, std::size_t& at);

/// The number of bytes of the character that text begins with, 1 to 4; 0 when no valid UTF-8
/// character begins there.
std::size_t utf8_length(std::string_view text);

/// Where the first byte lies that is not part of valid UTF-8; npos when all is valid.
std::size_t first_invalid_utf8(std::string_view text);

/// Appends the UTF-8 form of a code point; one that has none is appended as kReplacement.
void append_utf8(std::string& text, char32_t code);

}  // namespace samba
