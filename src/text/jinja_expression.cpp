#include "text/jinja_expression.h"

#include <algorithm>
#include <charconv>
#include <ranges>
#include <utility>

#include "core/error.h"
#include "text/json_node.h"

namespace samba::jinja {
namespace {

constexpr int kDeepest = 64;

template <class T>
const T* as(const Value& value) {
  return std::get_if<T>(&value.of);
}

const List* list_of(const Value& value) {
  const auto* list = as<std::shared_ptr<List>>(value);
  return list == nullptr ? nullptr : list->get();
}

const Map* map_of(const Value& value) {
  const auto* map = as<std::shared_ptr<Map>>(value);
  return map == nullptr ? nullptr : map->get();
}

bool equal(const Value& a, const Value& b) {
  if (a.of.index() != b.of.index()) {
    // Numbers and truth values compare as numbers do.
    const auto number = [](const Value& v) -> const std::int64_t* { return as<std::int64_t>(v); };
    if (const bool* left = as<bool>(a); left != nullptr && number(b) != nullptr)
      return *number(b) == (*left ? 1 : 0);
    if (const bool* right = as<bool>(b); right != nullptr && number(a) != nullptr)
      return *number(a) == (*right ? 1 : 0);
    return false;
  }
  if (const auto* text = as<std::string>(a)) return *text == *as<std::string>(b);
  if (const auto* number = as<std::int64_t>(a)) return *number == *as<std::int64_t>(b);
  if (const auto* truth = as<bool>(a)) return *truth == *as<bool>(b);
  // Of lists and maps only whether they are the same, or both empty: enough for templates, and
  // no work that grows with what they hold.
  if (const List* list = list_of(a))
    return list == list_of(b) || (list->empty() && list_of(b)->empty());
  return map_of(a) == map_of(b);
}

/// What looking for `part` in a text may compare.
std::size_t search(std::string_view text, std::string_view part) {
  constexpr std::size_t kAtOnce = 64;  // bytes that take about as long as one
  return text.size() * (1 + part.size() / kAtOnce);
}

std::string stripped(std::string_view text, bool left, bool right,
                     std::string_view what = " \t\r\n\v\f") {
  if (left) text.remove_prefix(std::min(text.find_first_not_of(what), text.size()));
  if (right) text = text.substr(0, text.find_last_not_of(what) + 1);
  return std::string(text);
}

std::string in_case(std::string text, bool upper) {
  for (char& c : text) {
    if (upper && c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
    if (!upper && c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

/// Walks over the words of an expression and computes as it goes. A part that is not `live`, such
/// as the right side of a false `and`, is only walked over: what is wrong there does not matter.
class Walker {
 public:
  Walker(const std::vector<Token>& tokens, const Scopes& scopes, Work& work, const Place& place)
      : tokens_(tokens), scopes_(scopes), work_(work), place_(place) {}

  Value whole() {
    Value value = choice(true);
    if (token().kind != Token::Kind::end) unexpected();
    return value;
  }

 private:
  const std::vector<Token>& tokens_;
  const Scopes& scopes_;
  Work& work_;
  const Place& place_;
  std::size_t at_ = 0;
  int depth_ = 0;

  const Token& token(std::size_t ahead = 0) const {
    return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
  }
  bool is(const char* word, std::size_t ahead = 0) const {
    return token(ahead).text == word && token(ahead).kind != Token::Kind::text;
  }
  bool take(const char* word) {
    if (!is(word)) return false;
    ++at_;
    return true;
  }
  void expect(const char* word) {
    if (!take(word)) unexpected();
  }
  [[noreturn]] void unexpected() const {
    if (token().kind == Token::Kind::end)
      fail(place_, ": found the end of an expression; expected more of it");
    fail(place_, ": found ", quote(token().text), "; expected the end of an expression");
  }
  [[noreturn]] void wrong(std::string_view found, std::string_view expected) const {
    fail(place_, ": found ", found, "; expected ", expected);
  }

  void spend(std::size_t units) { work_.spend(units, place_); }
  /// A value that has been copied or made.
  Value paid(Value value) {
    if (const auto* text = as<std::string>(value)) spend(text->size());
    return value;
  }
  /// A list or map that has been made.
  Value paid_whole(Value value) {
    if (value.depth > kDeepest) wrong("lists or maps nested deeper than 64", "fewer");
    if (const List* list = list_of(value)) spend(list->size() * sizeof(Value));
    return value;
  }

  void deeper() {
    if (++depth_ > kDeepest) fail(place_, ": nested deeper than ", kDeepest, " levels");
  }

  /// value if condition else other
  Value choice(bool live) {
    deeper();
    const std::size_t begin = at_;
    // Which side counts is known behind the first one.
    Value value = disjunction(false);
    for (std::size_t i = begin; i < at_; ++i) spend(Work::kWord + tokens_[i].text.size());
    if (!take("if")) {
      if (live) {
        at_ = begin;
        value = disjunction(true);
      }
      --depth_;
      return value;
    }
    const bool chosen = is_true(disjunction(live));
    value = take("else") ? choice(live && !chosen) : Value{};
    if (const std::size_t end = at_; live && chosen) {
      at_ = begin;
      value = disjunction(true);
      at_ = end;
    }
    --depth_;
    return value;
  }

  Value disjunction(bool live) {
    Value value = conjunction(live);
    while (take("or")) {
      const bool known = is_true(value);
      Value right = conjunction(live && !known);
      if (!known) value = std::move(right);
    }
    return value;
  }

  Value conjunction(bool live) {
    Value value = negation(live);
    while (take("and")) {
      const bool known = !is_true(value);
      Value right = negation(live && !known);
      if (!known) value = std::move(right);
    }
    return value;
  }

  Value negation(bool live) {
    bool negated = false, any = false;
    while (take("not")) {
      negated = !negated;
      any = true;
    }
    Value value = comparison(live);
    return any ? Value{is_true(value) != negated} : value;
  }

  /// One comparison at most: Jinja would compare the second in a chain with the value between.
  Value comparison(bool live) {
    Value left = sum(live);
    const std::string& sign = token().text;
    if (token().kind == Token::Kind::text) return left;
    if (sign == "==" || sign == "!=") {
      ++at_;
      return {equal(left, sum(live)) == (sign == "==")};
    }
    if (sign == "<" || sign == ">" || sign == "<=" || sign == ">=") {
      ++at_;
      return {ordered(left, sum(live), sign, live)};
    }
    if (sign == "in" || (sign == "not" && is("in", 1))) {
      at_ += sign == "in" ? 1 : 2;
      return {contains(sum(live), left, live) == (sign == "in")};
    }
    return left;
  }

  bool ordered(const Value& a, const Value& b, const std::string& sign, bool live) const {
    if (!live) return false;
    const auto* left = as<std::int64_t>(a);
    const auto* right = as<std::int64_t>(b);
    if (left == nullptr || right == nullptr) wrong(quote(sign) + " of other values", "numbers");
    return sign == "<"    ? *left < *right
           : sign == ">"  ? *left > *right
           : sign == "<=" ? *left <= *right
                          : *left >= *right;
  }

  bool contains(const Value& whole, const Value& part, bool live) {
    if (!live) return false;
    const auto* wanted = as<std::string>(part);
    if (const auto* text = as<std::string>(whole)) {
      if (wanted != nullptr) spend(search(*text, *wanted));
      return wanted != nullptr && text->find(*wanted) != text->npos;
    }
    if (const List* list = list_of(whole)) {
      spend(list->size() * (wanted == nullptr ? 1 : 1 + wanted->size()));
      return std::any_of(list->begin(), list->end(),
                         [&](const Value& element) { return equal(element, part); });
    }
    if (const Map* map = map_of(whole)) return wanted != nullptr && map->contains(*wanted);
    wrong("\"in\" of another value", "a text, a list or a map");
  }

  /// + and -, and ~ which binds tighter.
  Value sum(bool live) {
    Value left = joined(live);
    while (is("+") || is("-")) {
      const bool plus = token().text == "+";
      ++at_;
      const Value right = joined(live);
      if (!live) continue;
      const auto* a = as<std::int64_t>(left);
      const auto* b = as<std::int64_t>(right);
      const auto* x = as<std::string>(left);
      const auto* y = as<std::string>(right);
      std::int64_t number = 0;
      if (a != nullptr && b != nullptr &&
          !(plus ? __builtin_add_overflow(*a, *b, &number)
                 : __builtin_sub_overflow(*a, *b, &number)))
        left = Value{number};
      else if (plus && x != nullptr && y != nullptr)
        left = append(*x, *y);
      else
        wrong(plus ? "\"+\" of other values" : "\"-\" of other values", "two numbers or two texts");
    }
    return left;
  }

  Value append(const std::string& left, const std::string& right) {
    spend(left.size() + right.size());
    return {left + right};
  }

  Value joined(bool live) {
    Value left = product(live);
    while (take("~")) {
      const Value right = product(live);
      if (live) left = append(text_of_value(left, place_), text_of_value(right, place_));
    }
    return left;
  }

  Value product(bool live) {
    Value left = filtered(live);
    while (is("*") || is("%")) {
      const bool times = token().text == "*";
      ++at_;
      const Value right = filtered(live);
      if (!live) continue;
      const auto* a = as<std::int64_t>(left);
      const auto* b = as<std::int64_t>(right);
      if (a == nullptr || b == nullptr || (!times && *b <= 0))
        wrong(times ? "\"*\" of other values" : "\"%\" of other values", "numbers");
      std::int64_t result = 0;
      if (!times)
        result = *a % *b + (*a % *b < 0 ? *b : 0);
      else if (__builtin_mul_overflow(*a, *b, &result))
        wrong("a product above 64 bits", "a smaller one");
      left = Value{result};
    }
    return left;
  }

  /// A value with the filters and tests behind it.
  Value filtered(bool live) {
    Value value = member(live);
    for (;;) {
      if (take("|")) {
        value = filter(std::move(value), live);
      } else if (take("is")) {
        const bool negated = take("not");
        value = Value{test(value, live) != negated};
      } else {
        return value;
      }
    }
  }

  std::string name() {
    if (token().kind != Token::Kind::name) unexpected();
    return tokens_[at_++].text;
  }

  Value filter(Value value, bool live) {
    const std::string what = name();
    if (is("(")) arguments(live);
    if (!live) return {};
    const auto* text = as<std::string>(value);
    if (text != nullptr) spend(text->size());
    if (what == "trim" && text != nullptr) return {stripped(*text, true, true)};
    if ((what == "upper" || what == "lower") && text != nullptr)
      return {in_case(*text, what == "upper")};
    if (what == "string") return {text_of_value(value, place_)};
    if (what == "length" || what == "count") {
      if (const List* list = list_of(value)) return {static_cast<std::int64_t>(list->size())};
      if (const Map* map = map_of(value)) return {static_cast<std::int64_t>(map->size())};
      if (text != nullptr) return {static_cast<std::int64_t>(text->size())};
    }
    if (what == "list" && list_of(value) != nullptr) return value;
    if ((what == "first" || what == "last") && list_of(value) != nullptr)
      return element(value, {std::int64_t{what == "first" ? 0 : -1}});
    wrong("the filter " + quote(what),
          "trim, upper, lower, length, string, first or last of a value "
          "that has it");
  }

  bool test(const Value& value, bool live) {
    const std::string what = name();
    if (!live) return false;
    const bool undefined = as<Value::Undefined>(value) != nullptr;
    if (what == "defined") return !undefined;
    if (what == "undefined") return undefined;
    if (what == "none") return as<Value::None>(value) != nullptr;
    if (what == "string") return as<std::string>(value) != nullptr;
    if (what == "number") return as<std::int64_t>(value) != nullptr;
    if (what == "mapping") return map_of(value) != nullptr;
    if (what == "iterable" || what == "sequence")
      return list_of(value) != nullptr || map_of(value) != nullptr ||
             as<std::string>(value) != nullptr;
    if (what == "true" || what == "false") {
      const bool* truth = as<bool>(value);
      return truth != nullptr && *truth == (what == "true");
    }
    wrong("the test " + quote(what),
          "defined, none, string, mapping, iterable or another known one");
  }

  std::vector<std::pair<std::string, Value>> arguments(bool live) {
    expect("(");
    std::vector<std::pair<std::string, Value>> all;
    while (!take(")")) {
      std::string key;
      if (token().kind == Token::Kind::name && is("=", 1)) {
        key = name();
        expect("=");
      }
      all.emplace_back(key, choice(live));
      if (!is(")")) expect(",");
    }
    return all;
  }

  /// A value with members, elements, slices and calls behind it.
  Value member(bool live) {
    const std::string first = token().kind == Token::Kind::name ? token().text : "";
    Value value = primary(live);
    if (!first.empty() && is("(")) value = function(first, arguments(live), live);
    for (;;) {
      if (take(".")) {
        const std::string key = name();
        value = is("(") ? method(value, key, arguments(live), live)
                : live  ? paid(element(value, {key}))
                        : Value{};
      } else if (take("[")) {
        value = subscript(value, live);
      } else {
        return value;
      }
    }
  }

  Value subscript(const Value& value, bool live) {
    Value from{std::int64_t{0}}, to;
    const bool slice_begins = is(":");
    if (!slice_begins) from = choice(live);
    if (take("]")) return live ? paid(element(value, from)) : Value{};
    expect(":");
    if (!is("]")) to = choice(live);
    expect("]");
    if (!live) return {};
    const List* list = list_of(value);
    const auto* begin = as<std::int64_t>(from);
    const auto* end = as<std::int64_t>(to);
    if (list == nullptr || begin == nullptr || (end == nullptr && !as<Value::Undefined>(to)))
      wrong("a slice of another value", "one of a list, by numbers");
    const auto size = static_cast<std::int64_t>(list->size());
    const auto place = [&](std::int64_t i) {
      return list->begin() + std::clamp<std::int64_t>(i < 0 ? i + size : i, 0, size);
    };
    const auto first = place(*begin), last = end == nullptr ? list->end() : place(*end);
    List part;
    for (auto each = first; each < last; ++each) part.push_back(paid(*each));
    return paid_whole(Value::list(std::move(part)));
  }

  Value element(const Value& value, const Value& key) const {
    if (as<Value::Undefined>(value) != nullptr) wrong("a member of what is not defined", "a value");
    if (const Map* map = map_of(value)) {
      const auto* wanted = as<std::string>(key);
      const auto found = wanted == nullptr ? map->end() : map->find(*wanted);
      return found == map->end() ? Value{} : found->second;
    }
    const List* list = list_of(value);
    const auto* index = as<std::int64_t>(key);
    if (list == nullptr || index == nullptr) return {};
    const auto size = static_cast<std::int64_t>(list->size());
    const std::int64_t at = *index < 0 ? *index + size : *index;
    return at >= 0 && at < size ? (*list)[static_cast<std::size_t>(at)] : Value{};
  }

  Value function(const std::string& called, std::vector<std::pair<std::string, Value>> given,
                 bool live) {
    if (!live) return {};
    if (called == "raise_exception") {
      std::string reason = given.empty() ? "no" : text_of_value(given[0].second, place_);
      std::replace(reason.begin(), reason.end(), '\n', ' ');  // an error is one line
      fail(place_, ": the template says: ", reason);
    }
    if (called != "namespace")
      wrong("the function " + quote(called), "namespace or raise_exception");
    Map members;
    for (auto& [key, value] : given) members[key] = std::move(value);
    return paid_whole(Value::map(std::move(members)));
  }

  Value method(const Value& value, const std::string& called,
               const std::vector<std::pair<std::string, Value>>& given, bool live) {
    if (!live) return {};
    const auto* text = as<std::string>(value);
    const auto* argument = given.empty() ? nullptr : as<std::string>(given[0].second);
    if (text != nullptr) spend(argument == nullptr ? text->size() : search(*text, *argument));
    if (text != nullptr && (called == "strip" || called == "lstrip" || called == "rstrip")) {
      const bool left = called != "rstrip", right = called != "lstrip";
      return {argument == nullptr ? stripped(*text, left, right)
                                  : stripped(*text, left, right, *argument)};
    }
    if (text != nullptr && (called == "upper" || called == "lower"))
      return {in_case(*text, called == "upper")};
    if (text != nullptr && argument != nullptr) {
      if (called == "startswith") return {text->starts_with(*argument)};
      if (called == "endswith") return {text->ends_with(*argument)};
      if (called == "split" && !argument->empty()) return split(*text, *argument);
    }
    wrong("the method " + quote(called),
          "strip, lstrip, rstrip, upper, lower, startswith, endswith or split of a text");
  }

  Value split(std::string_view text, std::string_view by) {
    List parts;
    for (std::size_t at; (at = text.find(by)) != text.npos; text.remove_prefix(at + by.size())) {
      spend(sizeof(Value));
      parts.push_back({std::string(text.substr(0, at))});
    }
    parts.push_back({std::string(text)});
    return Value::list(std::move(parts));
  }

  Value primary(bool live) {
    const Token& word = token();
    if (take("(")) {
      Value value = choice(live);
      expect(")");
      return value;
    }
    if (take("[")) {
      List elements;
      while (!take("]")) {
        elements.push_back(choice(live));
        if (!is("]")) expect(",");
      }
      return paid_whole(Value::list(std::move(elements)));
    }
    if (take("-")) {
      deeper();
      const Value value = primary(live);
      --depth_;
      const auto* number = as<std::int64_t>(value);
      std::int64_t negative = 0;
      if (live && (number == nullptr || __builtin_sub_overflow(0, *number, &negative)))
        wrong("\"-\" before another value", "a number");
      return live ? Value{negative} : Value{};
    }
    if (word.kind == Token::Kind::end || word.kind == Token::Kind::sign) unexpected();
    ++at_;
    if (word.kind == Token::Kind::text) {
      std::string text = word.text;
      // Texts side by side are one.
      while (token().kind == Token::Kind::text) text += tokens_[at_++].text;
      spend(text.size());
      return {text};
    }
    if (word.kind == Token::Kind::number) return number(word.text);
    if (word.text == "true" || word.text == "True") return {true};
    if (word.text == "false" || word.text == "False") return {false};
    if (word.text == "none" || word.text == "None") return {Value::None{}};
    return live ? paid(scopes_.find(word.text)) : Value{};
  }

  Value number(const std::string& digits) const {
    std::int64_t value = 0;
    const char* end = digits.data() + digits.size();
    const auto [stop, error] = std::from_chars(digits.data(), end, value);
    if (error != std::errc() || stop != end) wrong(quote(digits), "a whole number of 64 bits");
    return {value};
  }
};

}  // namespace

Value Scopes::find(const std::string& name) const {
  for (const Map& scope : std::views::reverse(scopes_))
    if (const auto found = scope.find(name); found != scope.end()) return found->second;
  return {};
}

std::ostream& operator<<(std::ostream& out, const Place& place) {
  return out << place.file << ": line " << place.line;
}

void Work::spend(std::size_t units, const Place& place) {
  if (units > left_)
    fail(place, ": found more text or work than a conversation can ask for; expected less");
  left_ -= units;
}

Value evaluate(const std::vector<Token>& expression, const Scopes& scopes, Work& work,
               const Place& place) {
  return Walker(expression, scopes, work, place).whole();
}

bool is_true(const Value& value) {
  if (const auto* truth = as<bool>(value)) return *truth;
  if (const auto* number = as<std::int64_t>(value)) return *number != 0;
  if (const auto* text = as<std::string>(value)) return !text->empty();
  if (const List* list = list_of(value)) return !list->empty();
  if (const Map* map = map_of(value)) return !map->empty();
  return false;
}

std::string text_of_value(const Value& value, const Place& place) {
  if (const auto* text = as<std::string>(value)) return *text;
  if (const auto* number = as<std::int64_t>(value)) return std::to_string(*number);
  if (const auto* truth = as<bool>(value)) return *truth ? "True" : "False";
  if (as<Value::None>(value) != nullptr) return "None";
  if (as<Value::Undefined>(value) != nullptr) return "";
  fail(place, ": found a list or map as output; expected a text");
}

}  // namespace samba::jinja
