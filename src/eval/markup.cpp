#include "eval/markup.h"

#include <array>
#include <charconv>
#include <cmath>

#include "core/utf8.h"

namespace samba {

std::string escaped(std::string_view bytes) {
  std::string text;
  for (std::size_t at = 0; at < bytes.size();) {
    const char32_t code = next_code_point(bytes, at);
    switch (code) {
      case '&': text += "&amp;"; continue;
      case '<': text += "&lt;"; continue;
      case '>': text += "&gt;"; continue;
      case '"': text += "&quot;"; continue;
      case '\'': text += "&#39;"; continue;
      default: break;
    }
    const bool is_control = code < 0x20 && code != '\t' && code != '\n';
    const bool is_late_control = code >= 0x80 && code < 0xA0;
    if (is_control) {
      append_utf8(text, 0x2400 + code);
    } else if (code == 0x7F) {
      append_utf8(text, 0x2421);
    } else if (is_late_control || (code & 0xFFFE) == 0xFFFE) {
      append_utf8(text, kReplacement);
    } else {
      append_utf8(text, code);
    }
  }
  return text;
}

std::string fixed(double value, int decimals) {
  if (std::isnan(value)) return "not a number";
  if (std::isinf(value)) return value > 0 ? "∞" : "−∞";
  std::array<char, 400> digits{};
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value,
                                 std::chars_format::fixed, decimals);
  return {digits.data(), end.ptr};
}

std::string coordinate(double value, int decimals) {
  std::string text = fixed(value, decimals);
  if (text.find('.') == std::string::npos) return text;
  text.erase(text.find_last_not_of('0') + 1);
  if (text.back() == '.') text.pop_back();
  return text == "-0" ? "0" : text;
}

}  // namespace samba
