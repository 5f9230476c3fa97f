#pragma once

#include <algorithm>
#include <string>
#include <string_view>

#include "core/utf8.h"

namespace samba {

/// Gathers bytes and gives them back as whole characters.
class CharacterBuffer {
 public:
  void add(std::string_view bytes) { bytes_ += bytes; }
  bool empty() const { return bytes_.empty(); }

  /// Takes out what is settled: characters that are whole, and U+FFFD for what cannot become one.
  /// A character that more bytes may finish stays, unless this is the end.
  std::string take(bool end) {
    std::string text;
    std::size_t at = 0;
    while (at < bytes_.size()) {
      const std::string_view rest = std::string_view(bytes_).substr(at);
      const std::size_t length = utf8_length(rest);
      if (length > 0) {
        text.append(rest.substr(0, length));
        at += length;
        continue;
      }
      std::size_t malformed = 0;
      next_code_point(rest, malformed);
      if (!end && malformed == rest.size() && malformed < promised_length(rest.front())) break;
      append_utf8(text, kReplacement);
      at += byte_by_byte_ ? 1 : malformed;
    }
    bytes_.erase(0, at);
    return text;
  }

  /// byte_by_byte: a U+FFFD for each byte that forms no character, as SentencePiece has it; else
  /// one for each piece that is cut as the Unicode Standard recommends (core/utf8.h).
  explicit CharacterBuffer(bool byte_by_byte) : byte_by_byte_(byte_by_byte) {}

 private:
  bool byte_by_byte_;
  std::string bytes_;

  /// Bytes of a character that begins with this one; 1 where none does.
  static std::size_t promised_length(char first) {
    const auto byte = static_cast<unsigned char>(first);
    return byte < 0xc2 || byte > 0xf4 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
  }
};

}  // namespace samba
