#include "cli/options.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/error.h"

namespace samba {
namespace {

std::string option_name(const char* field) {
  std::string name = field;
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

template <class T>
T number(const std::string& option, const std::string& text, const char* kind) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size())
    throw UsageError(text_of("--", option, ": expected ", kind, ", found \"", text, "\""));
  if constexpr (std::is_floating_point_v<T>) {
    if (!std::isfinite(value))
      throw UsageError(text_of("--", option, ": expected ", kind, ", found \"", text, "\""));
  }
  return value;
}

/// Letters to insert, remove, change or swap with the next one (Damerau 1964).
std::size_t edits_between(const std::string& a, const std::string& b) {
  std::vector<std::vector<std::size_t>> edits(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
  for (std::size_t i = 0; i <= a.size(); ++i)
    for (std::size_t j = 0; j <= b.size(); ++j) {
      std::size_t& here = edits[i][j];
      here = std::max(i, j);
      if (i == 0 || j == 0) continue;
      here = std::min({edits[i - 1][j] + 1, edits[i][j - 1] + 1,
                       edits[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        here = std::min(here, edits[i - 2][j - 2] + 1);
    }
  return edits.back().back();
}

}  // namespace

std::string nearest(const std::string& word, const std::vector<std::string>& known) {
  std::string best;
  std::size_t fewest = std::max<std::size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : known) {
    if (const std::size_t edits = edits_between(word, candidate); edits < fewest) {
      fewest = edits;
      best = candidate;
    }
  }
  return best;
}

void OptionFields::add(const char* name, const char* value, std::string standard, const char* help,
                       std::function<void(const std::string&)> set) {
  options_.push_back({option_name(name), value, std::move(standard), help, std::move(set), {}});
}

void OptionFields::operator()(const char* name, bool& member, const char* help) {
  add(name, "", member ? "on" : "", help, [&member](const std::string&) { member = true; });
  options_.back().clear = [&member] { member = false; };
}

void OptionFields::operator()(const char* name, Index& member, const char* help) {
  add(name, "N", std::to_string(member), help,
      [&member, o = option_name(name)](const std::string& v) {
        member = number<Index>(o, v, "a whole number");
      });
}

void OptionFields::operator()(const char* name, double& member, const char* help) {
  add(name, "X", text_of(member), help, [&member, o = option_name(name)](const std::string& v) {
    member = number<double>(o, v, "a number");
  });
}

void OptionFields::operator()(const char* name, std::string& member, const char* help) {
  add(name, "TEXT", member, help, [&member](const std::string& v) { member = v; });
}

void OptionFields::operator()(const char* name, std::vector<std::string>& member,
                              const char* help) {
  add(name, "TEXT", "", help, [&member, first = true](const std::string& v) mutable {
    if (first) member.clear();  // what was there gives way to what the user names
    first = false;
    member.push_back(v);
  });
}

void OptionFields::operator()(const char* name, std::vector<Index>& member, const char* help) {
  std::string standard;
  for (const Index i : member) standard += (standard.empty() ? "" : ",") + std::to_string(i);
  auto set = [&member, o = option_name(name), first = true](const std::string& v) mutable {
    if (first) member.clear();
    first = false;
    for (std::size_t at = 0; at <= v.size();) {
      const std::size_t comma = std::min(v.find(',', at), v.size());
      member.push_back(number<Index>(o, v.substr(at, comma - at), "whole numbers with commas"));
      at = comma + 1;
    }
  };
  add(name, "N,N,...", std::move(standard), help, std::move(set));
}

const OptionFields::Option& OptionFields::find(const std::string& name) const {
  std::vector<std::string> known;
  for (const Option& option : options_) {
    if (option.name == name) return option;
    known.push_back(option.name);
  }
  const std::string near = nearest(name, known);
  throw UsageError(text_of("unknown option --", name,
                           near.empty() ? std::string() : "; the nearest is --" + near));
}

bool OptionFields::is_option(const std::string& word) const {
  return std::any_of(options_.begin(), options_.end(),
                     [&](const Option& option) { return word == "--" + option.name; });
}

std::vector<std::string> OptionFields::parse(const std::vector<std::string>& words) const {
  std::vector<std::string> rest;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (word == "--") {
      rest.insert(rest.end(), words.begin() + static_cast<std::ptrdiff_t>(i) + 1, words.end());
      break;
    }
    if (word.rfind("--", 0) != 0) {
      rest.push_back(word);
      continue;
    }
    const std::size_t equals = word.find('=');
    const std::string name = word.substr(2, equals == std::string::npos ? equals : equals - 2);
    const auto negated = std::find_if(options_.begin(), options_.end(), [&](const Option& o) {
      return o.clear && name == "no-" + o.name;
    });
    const Option& option = negated != options_.end() ? *negated : find(name);
    if (option.clear) {
      if (equals != std::string::npos) throw UsageError("--" + name + ": takes no value");
      negated != options_.end() ? option.clear() : option.set("");
      continue;
    }
    const bool behind = equals == std::string::npos;
    if (behind && (i + 1 == words.size() || is_option(words[i + 1])))
      throw UsageError("--" + name + ": expected a value behind it");
    option.set(behind ? words[++i] : word.substr(equals + 1));
  }
  return rest;
}

std::string OptionFields::help() const {
  std::size_t widest = 0;
  const auto left = [](const Option& o) {
    return "  --" + o.name + (o.value.empty() ? "" : " " + o.value);
  };
  for (const Option& o : options_) widest = std::max(widest, left(o).size());
  std::string text;
  for (const Option& o : options_) {
    std::string line = left(o);
    line.resize(widest + 2, ' ');
    text += line + o.help + (o.standard.empty() ? "" : " [" + o.standard + "]") + "\n";
  }
  return text;
}

}  // namespace samba
