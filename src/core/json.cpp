#include "core/json.h"

#include <algorithm>
#include <set>
#include <vector>

#include "core/error.h"
#include "core/files.h"

template class nlohmann::basic_json<nlohmann::ordered_map>;

namespace samba {
namespace {

constexpr int kDeepest = 64;
constexpr std::size_t kLargest = 100'000'000;

/// "line 3, column 7" of a byte of text.
std::string position(std::string_view text, std::size_t byte) {
  byte = std::min(byte, text.size());
  const std::string_view before = text.substr(0, byte);
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const std::size_t start =
      before.rfind('\n') == std::string_view::npos ? 0 : before.rfind('\n') + 1;
  return text_of("line ", line, ", column ", byte - start + 1);
}

}  // namespace

Json parse_json(std::string_view text, const std::string& place) {
  std::vector<std::set<std::string>> keys;
  const auto check = [&](int depth, Json::parse_event_t event, Json& parsed) {
    switch (event) {
      case Json::parse_event_t::object_start:
      case Json::parse_event_t::array_start:
        if (depth >= kDeepest) fail(place, ": nested deeper than ", kDeepest, " levels");
        keys.emplace_back();
        break;
      case Json::parse_event_t::object_end:
      case Json::parse_event_t::array_end: keys.pop_back(); break;
      case Json::parse_event_t::key:
        if (!keys.back().insert(parsed.get<std::string>()).second)
          fail(place, ": key ", parsed.dump(), " stands twice");
        break;
      case Json::parse_event_t::value: break;
    }
    return true;
  };
  try {
    return Json::parse(text, check);
  } catch (const Json::parse_error& error) {
    fail(place, ": not JSON at ", position(text, error.byte > 0 ? error.byte - 1 : 0));
  } catch (const Json::out_of_range&) {
    fail(place, ": expected numbers of 64 bits, found a larger one");
  }
}

Json read_json(const std::string& path) {
  return parse_json(read_text(path, kLargest), path);
}

void write_json(const std::string& path, const Json& document) {
  write_text(path, document.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace samba
