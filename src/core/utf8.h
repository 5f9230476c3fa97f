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

/// Appends the UTF-8 form of a code point; one that has none is appended as kReplacement.
void append_utf8(std::string& text, char32_t code);

}  // namespace samba
