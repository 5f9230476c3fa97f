#pragma once

#include <functional>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace samba {

/// The words after `sambalm COMMAND`, matched with the fields of an options struct (core/fields.h):
/// a field `max_tokens` is the option `--max-tokens`, a bool takes no value (`--no-NAME` clears
/// it), a vector takes every repetition of its option and commas between numbers.
class OptionFields {
 public:
  void operator()(const char* name, bool& member, const char* help);
  void operator()(const char* name, Index& member, const char* help);
  void operator()(const char* name, double& member, const char* help);
  void operator()(const char* name, std::string& member, const char* help);
  void operator()(const char* name, std::vector<std::string>& member, const char* help);
  void operator()(const char* name, std::vector<Index>& member, const char* help);

  /// Stores the options in the members and returns the words that are no options. `--name value`
  /// and `--name=value` mean the same; after `--` nothing is an option. Throws a UsageError that
  /// names the nearest right option.
  std::vector<std::string> parse(const std::vector<std::string>& words) const;
  /// One line per option: its name, its help and its default.
  std::string help() const;

 private:
  struct Option {
    std::string name;
    std::string value;  ///< what the help calls its value; empty for a bool
    std::string standard;
    std::string help;
    std::function<void(const std::string& value)> set;
    std::function<void()> clear;  ///< a bool's
  };
  void add(const char* name, const char* value, std::string standard, const char* help,
           std::function<void(const std::string&)> set);
  const Option& find(const std::string& name) const;
  bool is_option(const std::string& word) const;

  std::vector<Option> options_;
};

/// Wrong usage: `main` prints it and exits 2.
class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The word of `known` with the fewest edits from `word`, or "" when none is close.
std::string nearest(const std::string& word, const std::vector<std::string>& known);

}  // namespace samba
