#include "text/jinja_syntax.h"

#include <algorithm>
#include <cctype>
#include <optional>
#include <utility>

#include "core/error.h"
#include "text/json_node.h"

namespace samba::jinja {
namespace {

constexpr std::size_t kDeepest = 64;

bool is_name(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
}

bool is_blank(char c) {
  return std::isspace(static_cast<unsigned char>(c)) != 0;
}

/// A text in quotes that begins at source[at]; moves `at` behind it.
std::string quoted_text(std::string_view source, std::size_t& at, const std::string& place) {
  const char quote = source[at++];
  std::string text;
  while (at < source.size() && source[at] != quote) {
    if (source[at] != '\\' || at + 1 == source.size()) {
      text += source[at++];
      continue;
    }
    const char next = source[at + 1];
    at += 2;
    if (next == 'n')
      text += '\n';
    else if (next == 't')
      text += '\t';
    else if (next == 'r')
      text += '\r';
    else if (next == '\\' || next == '\'' || next == '"')
      text += next;
    else
      (text += '\\') += next;
  }
  if (at == source.size()) fail(place, ": found a text without its second quote; expected one");
  ++at;
  return text;
}

/// A tag {{ }}, {% %} or {# #}, or the text before one.
struct Piece {
  char kind = 't';  ///< 't' text, or the character of its brace
  std::size_t line = 0;
  std::string_view inside;
};

/// Cuts a template into tags and the text between them, with white space gone where the tags or
/// the two options ask for it.
class Cutter {
 public:
  Cutter(std::string_view source, const std::string& place) : source_(source), place_(place) {
    // A line break at the very end belongs to the file, not to the text.
    if (source_.ends_with('\n')) source_.remove_suffix(1);
    if (source_.ends_with('\r')) source_.remove_suffix(1);
  }

  std::vector<Piece> run() {
    std::vector<Piece> pieces;
    while (at_ < source_.size()) {
      const std::size_t open = next_tag();
      std::string_view text = source_.substr(at_, open - at_);
      const bool tag = open < source_.size();
      if (tag) text = before_tag(text, open);
      if (trim_left_) text.remove_prefix(std::min(text.find_first_not_of(" \t\r\n"), text.size()));
      if (!text.empty()) pieces.push_back({'t', line_, text});
      count_lines(open);
      at_ = open;
      trim_left_ = false;
      if (tag) pieces.push_back(read_tag());
    }
    return pieces;
  }

 private:
  std::string_view source_;
  const std::string& place_;
  std::size_t at_ = 0;
  std::size_t line_ = 1, counted_ = 0;
  bool trim_left_ = false;

  std::size_t next_tag() const {
    for (std::size_t at = source_.find('{', at_); at != source_.npos;
         at = source_.find('{', at + 1))
      if (at + 1 < source_.size() && std::string_view("{%#").find(source_[at + 1]) < 3) return at;
    return source_.size();
  }

  /// The text before a tag, without the white space that the tag takes.
  std::string_view before_tag(std::string_view text, std::size_t open) const {
    const char sign = open + 2 < source_.size() ? source_[open + 2] : ' ';
    if (sign == '-') return text.substr(0, text.find_last_not_of(" \t\r\n") + 1);
    if (source_[open + 1] == '{' || sign == '+') return text;
    // lstrip_blocks: what indents a statement is no text.
    const std::size_t last = text.find_last_not_of(" \t");
    if (last == text.npos ? at_ == 0 || source_[at_ - 1] == '\n' : text[last] == '\n')
      return text.substr(0, last + 1);
    return text;
  }

  void count_lines(std::size_t upto) {
    line_ += static_cast<std::size_t>(
        std::count(source_.begin() + static_cast<std::ptrdiff_t>(counted_),
                   source_.begin() + static_cast<std::ptrdiff_t>(upto), '\n'));
    counted_ = upto;
  }

  Piece read_tag() {
    const char brace = source_[at_ + 1];
    const char close[] = {brace == '{' ? '}' : brace, '}', '\0'};
    std::size_t end = at_ + 2;
    for (char quote = '\0'; end < source_.size(); ++end) {
      const char c = source_[end];
      if (quote == '\0' && source_.substr(end, 2) == close) break;
      if (brace == '#') continue;
      if (quote != '\0' && c == '\\')
        ++end;
      else if (c == quote)
        quote = '\0';
      else if (quote == '\0' && (c == '\'' || c == '"'))
        quote = c;
    }
    if (end >= source_.size())
      fail(place_, ": line ", line_, ": found {", brace, " without ", close, "; expected both");
    std::string_view inside = source_.substr(at_ + 2, end - at_ - 2);
    at_ = end + 2;
    const bool plus = inside.ends_with('+') && brace != '{';
    if (inside.starts_with('-') || inside.starts_with('+')) inside.remove_prefix(1);
    trim_left_ = inside.ends_with('-');
    if (trim_left_ || plus) inside.remove_suffix(1);
    // trim_blocks: a line break behind a statement is no text.
    if (brace != '{' && !trim_left_ && !plus) {
      if (source_.substr(at_).starts_with("\r\n"))
        at_ += 2;
      else if (source_.substr(at_).starts_with('\n'))
        ++at_;
    }
    return {brace, line_, inside};
  }
};

/// Nests statements.
class Parser {
 public:
  Parser(std::vector<Piece> pieces, const std::string& place)
      : pieces_(std::move(pieces)), place_(place) {}

  std::vector<Node> all() {
    std::vector<Node> nodes = body({});
    return nodes;
  }

 private:
  std::vector<Piece> pieces_;
  const std::string& place_;
  std::size_t next_ = 0;
  std::size_t depth_ = 0;
  std::vector<Token> end_;  ///< the statement that ended the body read last

  std::string at(const Piece& piece) const { return text_of(place_, ": line ", piece.line); }

  /// Nodes up to a statement that begins with one of `ends`; up to the end where there are none.
  std::vector<Node> body(const std::vector<std::string>& ends) {
    if (++depth_ > kDeepest) fail(place_, ": nested deeper than ", kDeepest, " statements");
    std::vector<Node> nodes;
    while (next_ < pieces_.size()) {
      const Piece& piece = pieces_[next_++];
      if (piece.kind == '#') continue;
      Node node;
      node.line = piece.line;
      if (piece.kind == 't') {
        node.text = piece.inside;
        nodes.push_back(std::move(node));
      } else if (piece.kind == '{') {
        node.kind = Node::Kind::output;
        node.expression = expression_tokens(piece.inside, at(piece));
        nodes.push_back(std::move(node));
      } else {
        std::vector<Token> words = expression_tokens(piece.inside, at(piece));
        if (std::find(ends.begin(), ends.end(), words.front().text) != ends.end()) {
          end_ = std::move(words);
          --depth_;
          return nodes;
        }
        if (auto made = statement(std::move(words), piece)) nodes.push_back(std::move(*made));
      }
    }
    if (!ends.empty())
      fail(place_, ": found the end of the template; expected {% ", ends.front(), " %}");
    --depth_;
    return nodes;
  }

  std::optional<Node> statement(std::vector<Token> words, const Piece& piece) {
    const std::string name = words.front().text;
    words.erase(words.begin());
    Node node;
    node.line = piece.line;
    if (name == "if") return condition(std::move(node), std::move(words));
    if (name == "for") return loop(std::move(node), std::move(words), piece);
    if (name == "set") return set(std::move(node), std::move(words), piece);
    // Marks what was generated, for training.
    if (name == "generation" || name == "endgeneration") return {};
    if (name == "macro") {
      body({"endmacro"});
      return {};
    }
    fail(at(piece), ": found the statement ", quote(name),
         "; expected if, elif, else, endif, for, endfor or set");
  }

  Node condition(Node node, std::vector<Token> words) {
    node.kind = Node::Kind::condition;
    for (;;) {
      node.branches.push_back({std::move(words), body({"endif", "elif", "else"})});
      const std::string end = end_.front().text;
      if (end == "endif") return node;
      words.clear();
      if (end == "elif") {
        words.assign(end_.begin() + 1, end_.end());
        continue;
      }
      node.branches.push_back({{}, body({"endif"})});
      return node;
    }
  }

  Node loop(Node node, std::vector<Token> words, const Piece& piece) {
    if (words.size() < 4 || words[0].kind != Token::Kind::name || words[1].text != "in")
      fail(at(piece), ": found ", quote(piece.inside), "; expected for NAME in LIST");
    node.kind = Node::Kind::loop;
    node.text = words[0].text;
    node.expression.assign(words.begin() + 2, words.end());
    node.branches.push_back({{}, body({"endfor"})});
    return node;
  }

  /// `set name = value` or, of a namespace, `set name.member = value`.
  Node set(Node node, std::vector<Token> words, const Piece& piece) {
    const bool member = words.size() > 3 && words[1].text == ".";
    const std::size_t equal = member ? 3 : 1;
    if (words.size() < equal + 3 || words[0].kind != Token::Kind::name ||
        words[equal].text != "=" || words[equal].kind != Token::Kind::sign)
      fail(at(piece), ": found ", quote(piece.inside), "; expected set NAME = VALUE");
    node.kind = Node::Kind::set;
    node.text = words[0].text + (member ? "." + words[2].text : "");
    node.expression.assign(words.begin() + static_cast<std::ptrdiff_t>(equal) + 1, words.end());
    return node;
  }
};

}  // namespace

std::vector<Token> expression_tokens(std::string_view text, const std::string& place) {
  std::vector<Token> tokens;
  for (std::size_t at = 0; at < text.size();) {
    const char c = text[at];
    const std::size_t begin = at;
    if (is_blank(c)) {
      ++at;
    } else if (c == '\'' || c == '"') {
      tokens.push_back({Token::Kind::text, quoted_text(text, at, place)});
    } else if (is_name(c)) {
      while (at < text.size() && is_name(text[at])) ++at;
      const bool number = std::isdigit(static_cast<unsigned char>(c)) != 0;
      tokens.push_back({number ? Token::Kind::number : Token::Kind::name,
                        std::string(text.substr(begin, at - begin))});
    } else {
      constexpr std::string_view kPairs[] = {"==", "!=", "<=", ">=", "//", "**"};
      const bool pair =
          std::find(std::begin(kPairs), std::end(kPairs), text.substr(at, 2)) != std::end(kPairs);
      at += pair ? 2 : 1;
      tokens.push_back({Token::Kind::sign, std::string(text.substr(begin, at - begin))});
    }
  }
  tokens.push_back({});
  return tokens;
}

std::vector<Node> parse(std::string_view source, const std::string& place) {
  return Parser(Cutter(source, place).run(), place).all();
}

}  // namespace samba::jinja
