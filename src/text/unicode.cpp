#include "text/unicode.h"

#include <utf8proc.h>

#include <bitset>
#include <cstdlib>
#include <memory>

#include "core/error.h"

namespace samba {
namespace {

/// Code points below this one are in form C whatever stands beside them, and so is a text of them.
constexpr char32_t kFirstMark = 0x300;
constexpr unsigned char kFirstMarkByte = 0xCC;  // begins its UTF-8
/// Beyond this one all code points but a few hundred are rare enough to be normalised unseen.
constexpr std::size_t kKnown = 0x20000;

/// The library's options are flags in an enumeration of single ones.
utf8proc_option_t together(utf8proc_option_t a, utf8proc_option_t b) {
  // NOLINTNEXTLINE(clang-analyzer-optin.core.EnumCastOutOfRange)
  return static_cast<utf8proc_option_t>(a | b);
}

/// Which code points neither change in form C nor join what stands before them.
const std::bitset<kKnown>& inert_chars() {
  static const std::bitset<kKnown> table = [] {
    std::bitset<kKnown> inert;
    inert.set();
    const auto options = together(UTF8PROC_DECOMPOSE, UTF8PROC_STABLE);
    for (std::size_t c = 0; c < kKnown; ++c) {
      if (c >= 0xD800 && c < 0xE000) continue;
      const auto code = static_cast<utf8proc_int32_t>(c);
      if (utf8proc_get_property(code)->combining_class != 0) inert.reset(c);
      std::array<utf8proc_int32_t, 8> parts{};
      int boundary = 0;
      const utf8proc_ssize_t count = utf8proc_decompose_char(
          code, parts.data(), static_cast<utf8proc_ssize_t>(parts.size()), options, &boundary);
      if (count == 1 && parts[0] == code) continue;
      for (utf8proc_ssize_t i = 1; i < count; ++i)
        if (parts[static_cast<std::size_t>(i)] < static_cast<utf8proc_int32_t>(kKnown))
          inert.reset(static_cast<std::size_t>(parts[static_cast<std::size_t>(i)]));
      const utf8proc_ssize_t composed = utf8proc_normalize_utf32(
          parts.data(), count, together(UTF8PROC_COMPOSE, UTF8PROC_STABLE));
      if (composed != 1 || parts[0] != code) inert.reset(c);
    }
    return inert;
  }();
  return table;
}

bool is_inert(char32_t code) {
  return code < kFirstMark || (code < kKnown && inert_chars()[code]);
}

bool is_plain(std::string_view text) {
  for (const char c : text)
    if (static_cast<unsigned char>(c) >= kFirstMarkByte) return false;
  return true;
}

void append_composed(std::string_view text, std::string& out) {
  utf8proc_uint8_t* composed = nullptr;
  const utf8proc_ssize_t size = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                             static_cast<utf8proc_ssize_t>(text.size()), &composed,
                                             together(UTF8PROC_COMPOSE, UTF8PROC_STABLE));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(composed, &std::free);
  if (size < 0) fail("normalisation form C: ", utf8proc_errmsg(size));
  out.append(reinterpret_cast<const char*>(composed), static_cast<std::size_t>(size));
}

}  // namespace

CharClass char_class(char32_t code) {
  if (code < kAsciiClasses.size()) return kAsciiClasses[code];
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO: return CharClass::letter;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO: return CharClass::number;
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP: return CharClass::space;
    default: return code == 0x85 ? CharClass::space : CharClass::other;
  }
}

bool is_word_char(char32_t code) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(code))) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    default: return char_class(code) == CharClass::letter || code == 0x200C || code == 0x200D;
  }
}

std::string_view compose(std::string_view text, std::string& buffer) {
  if (is_plain(text)) return text;
  buffer.clear();
  std::size_t copied = 0, previous = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t begin = at;
    const auto first = static_cast<unsigned char>(text[at]);
    if (first < kFirstMarkByte) {
      at += first < 0x80 ? 1 : 2;
      previous = begin;
      continue;
    }
    if (is_inert(next_code_point(text, at))) {
      previous = begin;
      continue;
    }
    // From the character before, which may take a mark, to the next that stands for itself.
    while (at < text.size()) {
      std::size_t next = at;
      if (is_inert(next_code_point(text, next))) break;
      at = next;
    }
    const std::size_t from = std::max(previous, copied);
    buffer.append(text.substr(copied, from - copied));
    append_composed(text.substr(from, at - from), buffer);
    copied = previous = at;
  }
  if (copied == 0) return text;
  buffer.append(text.substr(copied));
  return buffer;
}

}  // namespace samba
