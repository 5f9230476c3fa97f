#pragma once

#include <ostream>
#include <string>
#include <string_view>
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

/// Where an expression stands, as errors begin: "FILE: line 3".
struct Place {
  std::string_view file;
  std::size_t line;
};
std::ostream& operator<<(std::ostream&, const Place&);

/// What a rendering may still do, in units of about a byte copied or compared. Every text and list
/// is paid for when it is made, so that this bounds time and memory at once.
class Work {
 public:
  static constexpr std::size_t kWord = 8;  ///< of an expression
  static constexpr std::size_t kStatement = 128;
  static constexpr std::size_t kRound = 512;  ///< of a loop

  explicit Work(std::size_t units) : left_(units) {}
  /// Throws an Error that begins with `place` where less is left.
  void spend(std::size_t units, const Place& place);

 private:
  std::size_t left_;
};

/// The value of an expression.
Value evaluate(const std::vector<Token>& expression, const Scopes& scopes, Work& work,
               const Place& place);

/// Whether a condition takes a value for true.
bool is_true(const Value& value);

/// What output shows of a value. Throws an Error on lists and maps.
std::string text_of_value(const Value& value, const Place& place);

}  // namespace samba::jinja
