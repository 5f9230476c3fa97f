#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace samba::jinja {

struct Value;
using List = std::vector<Value>;
using Map = std::map<std::string, Value>;

/// What a template computes with. Lists and maps are shared when copied.
struct Value {
  struct Undefined {};
  struct None {};
  std::variant<Undefined, None, bool, std::int64_t, std::string, std::shared_ptr<List>,
               std::shared_ptr<Map>>
      of;
  int depth = 0;  ///< lists and maps inside of each other, when it was made

  static Value list(List elements);
  static Value map(Map members);
};

/// A word of an expression.
struct Token {
  enum class Kind : std::uint8_t { name, text, number, sign, end };
  Kind kind = Kind::end;
  std::string text;  ///< of a text without quotes and escapes
};

/// A piece of a template.
struct Node {
  enum class Kind : std::uint8_t { text, output, set, condition, loop };
  struct Branch {
    std::vector<Token> condition;  ///< empty: else
    std::vector<Node> body;
  };
  Kind kind = Kind::text;
  std::size_t line = 0;
  std::string text;               ///< of a text; the variables of a set or loop
  std::vector<Token> expression;  ///< of output, set and loop
  std::vector<Branch> branches;   ///< of a condition; one of a loop
};

/// A template in the part of the Jinja language that chat templates use, with trim_blocks and
/// lstrip_blocks on: output; if, for, set, namespace; comparisons, and, or, not, in, is, +, ~, -,
/// *, %, inline if; members, elements and slices; a few filters and methods of strings. What is not
/// of this part is an Error when it is reached, not before: branches for tools that nobody asks for
/// may use more. Source: the Jinja documentation, "Template Designer Documentation".
class Template {
 public:
  /// Throws an Error "FILE: line N: ..." on broken statements, and above 1 MiB.
  Template(std::string_view source, std::string file);

  /// The text. Throws an Error on what the part lacks, on raise_exception in its words, and on more
  /// work or memory than the variables, which are texts and lists of maps of texts, can ask for.
  std::string render(Map variables) const;

 private:
  std::string file_;
  std::vector<Node> nodes_;
};

/// Cuts an expression into words, with one of kind end behind them.
std::vector<Token> expression_tokens(std::string_view text, const std::string& place);

}  // namespace samba::jinja
