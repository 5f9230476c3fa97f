#include "cli/self_extend.h"

#include <charconv>

#include "core/error.h"

namespace samba {

void apply_self_extend(ModelSource& source, const std::string& text) {
  if (text.empty()) return;
  Index group = 0, window = 0;
  const char* end = text.data() + text.size();
  const auto [colon, first_error] = std::from_chars(text.data(), end, group);
  const bool parted = first_error == std::errc() && colon != end && *colon == ':';
  const auto [rest, second_error] = std::from_chars(parted ? colon + 1 : end, end, window);
  if (!parted || second_error != std::errc() || rest != end || group < 1 || window < 1)
    fail("--self-extend: expected GROUP:WINDOW as in 4:1024, found \"", text, "\"");
  self_extend(source.layout.config, group, window);
}

}  // namespace samba
