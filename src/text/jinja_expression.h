#pragma once

#include <string>
#include <vector>

#include "text/jinja.h"

namespace samba::jinja {

/// Names and what they stand for: of the template, and of each loop that is running.
class Scopes {
 public:
  explicit Scopes(Map variables) : scopes_{std::move(variables)} {}
  void push() { scopes_.emplace_back(); }
  void pop() { scopes_.pop_back(); }
  void set(const std::string& name, Value value) { scopes_.back()[name] = std::move(value); }
  /// Undefined where no scope has the name.
  Value find(const std::string& name) const;

 private:
  std::vector<Map> scopes_;
};

/// The value of an expression. `place` stands before errors: "FILE: line 3".
Value evaluate(const std::vector<Token>& expression, const Scopes& scopes,
               const std::string& place);

/// Whether a condition takes a value for true.
bool is_true(const Value& value);

/// What output shows of a value. Throws an Error on lists and maps.
std::string text_of_value(const Value& value, const std::string& place);

}  // namespace samba::jinja
