#include "support/config_page.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <set>

#include "core/files.h"

namespace samba::test {
namespace {

/// The page from `heading` to the next heading of at most its level; empty where there is none.
std::string section(const std::string& page, const std::string& heading) {
  const std::size_t begin = page.find("\n" + heading + "\n");
  if (begin == std::string::npos) return "";
  std::size_t end = page.find("\n## ", begin + 1);
  if (heading.starts_with("### ")) end = std::min(end, page.find("\n### ", begin + 1));
  return page.substr(begin, end - begin);
}

}  // namespace

void expect_rows(const std::string& page, const std::string& heading,
                 const std::vector<std::string>& names) {
  const std::string text = section(read_text(page), heading);
  EXPECT_FALSE(text.empty()) << page << " lacks the section " << heading;
  for (const std::string& name : names)
    EXPECT_NE(text.find("\n| `" + name + "` |"), std::string::npos)
        << page << ": " << heading << " lacks a row for " << name;
}

std::vector<std::string> keys_of(const LayerType& type) {
  constexpr Index kWidth = 16;
  std::set<std::string> keys;
  for (Json entry : type.examples) {
    std::deque<Parameter> parameters;
    std::vector<StateShape> states;
    make_layer(entry, type.name, kWidth,
               Plan(parameters, states, DType::f32, InitScheme{false, kWidth, 1, 1}));
    for (const auto& [key, unused] : entry.items()) keys.insert(key);
  }
  keys.erase("type");
  return {keys.begin(), keys.end()};
}

void expect_section(const std::string& page, const LayerType& type) {
  expect_rows(page, "### `" + type.name + "`", keys_of(type));
}

}  // namespace samba::test
