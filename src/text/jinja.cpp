#include "text/jinja.h"

#include <algorithm>
#include <set>
#include <utility>

#include "core/error.h"
#include "text/jinja_expression.h"
#include "text/jinja_syntax.h"

namespace samba::jinja {
namespace {

constexpr std::size_t kMaxSource = std::size_t{1} << 20;
/// The work for any conversation, and for each unit of its size. A template's words for one message
/// cost a few thousand units at most, those of a message's size among them.
constexpr std::size_t kWork = std::size_t{16} << 20;
constexpr std::size_t kWorkForEach = 64;

/// Bytes of texts, and a few for each value.
std::size_t size_of(const Value& value) {
  std::size_t size = 16;
  if (const auto* text = std::get_if<std::string>(&value.of)) size += text->size();
  if (const auto* list = std::get_if<std::shared_ptr<List>>(&value.of))
    for (const Value& element : **list) size += size_of(element);
  if (const auto* map = std::get_if<std::shared_ptr<Map>>(&value.of))
    for (const auto& [key, member] : **map) size += key.size() + size_of(member);
  return size;
}

/// What copying the value copies.
std::size_t size_of_text(const Value& value) {
  const auto* text = std::get_if<std::string>(&value.of);
  return text == nullptr ? 0 : text->size();
}

class Renderer {
 public:
  Renderer(Map variables, const std::string& file)
      : work_(work_for(variables)), scopes_(std::move(variables)), file_(file) {}
  Renderer(const Renderer&) = delete;
  Renderer& operator=(const Renderer&) = delete;
  /// A namespace may hold itself.
  ~Renderer() {
    for (const auto& space : spaces_) space->clear();
  }

  void run(const std::vector<Node>& nodes) {
    for (const Node& node : nodes) run(node);
  }
  std::string take() { return std::move(text_); }

 private:
  Work work_;
  Scopes scopes_;
  const std::string& file_;
  std::string text_;
  std::set<std::shared_ptr<Map>> spaces_;  ///< namespaces that were written to

  static Work work_for(const Map& variables) {
    std::size_t size = 0;
    for (const auto& [name, value] : variables) size += size_of(value);
    return Work(kWork + kWorkForEach * size);
  }

  Place at(const Node& node) const { return {file_, node.line}; }
  Value value_of(const std::vector<Token>& expression, const Node& node) {
    return evaluate(expression, scopes_, work_, at(node));
  }

  void append(const std::string& text, const Node& node) {
    work_.spend(text.size(), at(node));
    text_ += text;
  }

  void run(const Node& node) {
    work_.spend(Work::kStatement, at(node));
    switch (node.kind) {
      case Node::Kind::text: append(node.text, node); break;
      case Node::Kind::output:
        append(text_of_value(value_of(node.expression, node), at(node)), node);
        break;
      case Node::Kind::set: set(node); break;
      case Node::Kind::condition:
        for (const Node::Branch& branch : node.branches) {
          if (!branch.condition.empty() && !is_true(value_of(branch.condition, node))) continue;
          run(branch.body);
          break;
        }
        break;
      case Node::Kind::loop: loop(node); break;
    }
  }

  void set(const Node& node) {
    Value value = value_of(node.expression, node);
    const std::size_t dot = node.text.find('.');
    if (dot == node.text.npos) return scopes_.set(node.text, std::move(value));
    // A namespace: shared, so that what a loop sets is seen behind it.
    const Value space = scopes_.find(node.text.substr(0, dot));
    const auto* members = std::get_if<std::shared_ptr<Map>>(&space.of);
    if (members == nullptr)
      fail(at(node), ": found a member of ", node.text.substr(0, dot), "; expected a namespace");
    spaces_.insert(*members);
    (**members)[node.text.substr(dot + 1)] = std::move(value);
  }

  void loop(const Node& node) {
    const Value over = value_of(node.expression, node);
    const auto* elements = std::get_if<std::shared_ptr<List>>(&over.of);
    if (elements == nullptr) fail(at(node), ": found no list to loop over; expected one");
    const List& all = **elements;
    for (std::size_t i = 0; i < all.size(); ++i) {
      work_.spend(Work::kRound + size_of_text(all[i]), at(node));
      const auto index = static_cast<std::int64_t>(i);
      scopes_.push();
      scopes_.set(node.text, all[i]);
      scopes_.set("loop", Value::map({{"index", {index + 1}},
                                      {"index0", {index}},
                                      {"first", {i == 0}},
                                      {"last", {i + 1 == all.size()}},
                                      {"length", {static_cast<std::int64_t>(all.size())}}}));
      run(node.branches.front().body);
      scopes_.pop();
    }
  }
};

}  // namespace

Value Value::list(List elements) {
  int depth = 0;
  for (const Value& element : elements) depth = std::max(depth, element.depth + 1);
  return {std::make_shared<List>(std::move(elements)), depth};
}

Value Value::map(Map members) {
  int depth = 0;
  for (const auto& [key, member] : members) depth = std::max(depth, member.depth + 1);
  return {std::make_shared<Map>(std::move(members)), depth};
}

Template::Template(std::string_view source, std::string file) : file_(std::move(file)) {
  if (source.size() > kMaxSource)
    fail(file_, ": found ", source.size(), " bytes; expected at most ", kMaxSource);
  nodes_ = parse(source, file_);
}

std::string Template::render(Map variables) const {
  Renderer renderer(std::move(variables), file_);
  renderer.run(nodes_);
  return renderer.take();
}

}  // namespace samba::jinja
