#include "core/fields.h"

#include <algorithm>

namespace samba {

void expect_size(const std::string& place, const char* key, Index value) {
  if (value < 1 || value > kLargestSize)
    fail(place, ": ", key, ": expected 1 to ", kLargestSize, ", found ", value);
}

void JsonFields::finish() const {
  for (const auto& [key, value] : object_.items()) {
    if (std::find(names_.begin(), names_.end(), key) != names_.end()) continue;
    std::string known;
    for (const std::string& name : names_) known += (known.empty() ? "" : ", ") + name;
    fail(place_, ": unknown key \"", key, "\"; expected one of ", known);
  }
}

void JsonFields::wrong(const Json& value, const char* name, const char* expected) const {
  const std::string found = value.dump();
  fail(place_, ": ", name, ": expected ", expected, ", found ",
       found.size() > 80 ? found.substr(0, 80) + "..." : found);
}

void JsonFields::read(const Json& value, const char* name, bool& member) const {
  if (!value.is_boolean()) wrong(value, name, "true or false");
  member = value.get<bool>();
}

void JsonFields::read(const Json& value, const char* name, Index& member) const {
  if (!value.is_number_integer() ||
      (value.is_number_unsigned() && value.get<std::uint64_t>() > INT64_MAX))
    wrong(value, name, "a whole number");
  member = value.get<Index>();
}

void JsonFields::read(const Json& value, const char* name, std::optional<Index>& member) const {
  read(value, name, member.emplace());
}

void JsonFields::read(const Json& value, const char* name, double& member) const {
  if (!value.is_number()) wrong(value, name, "a number");
  member = value.get<double>();
}

void JsonFields::read(const Json& value, const char* name, std::string& member) const {
  if (!value.is_string()) wrong(value, name, "a string");
  member = value.get<std::string>();
}

}  // namespace samba
