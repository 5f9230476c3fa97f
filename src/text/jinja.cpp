#include "text/jinja.h"

#include <utility>

#include "core/error.h"
#include "text/jinja_expression.h"
#include "text/jinja_syntax.h"

namespace samba::jinja {
namespace {

constexpr std::size_t kMaxSource = std::size_t{1} << 20;
constexpr std::size_t kMaxOutput = std::size_t{64} << 20;
/// Statements that a rendering may take: far more than any conversation needs.
constexpr std::size_t kMaxSteps = 10'000'000;

class Renderer {
 public:
  Renderer(Map variables, const std::string& place)
      : scopes_(std::move(variables)), place_(place) {}

  void run(const std::vector<Node>& nodes) {
    for (const Node& node : nodes) run(node);
  }
  std::string take() { return std::move(text_); }

 private:
  Scopes scopes_;
  const std::string& place_;
  std::string text_;
  std::size_t steps_ = 0;

  std::string at(const Node& node) const { return text_of(place_, ": line ", node.line); }

  void run(const Node& node) {
    if (++steps_ > kMaxSteps || text_.size() > kMaxOutput)
      fail(at(node), ": found too much output; expected that of a conversation");
    switch (node.kind) {
      case Node::Kind::text: text_ += node.text; break;
      case Node::Kind::output:
        text_ += text_of_value(evaluate(node.expression, scopes_, at(node)), at(node));
        break;
      case Node::Kind::set: set(node); break;
      case Node::Kind::condition:
        for (const Node::Branch& branch : node.branches) {
          if (!branch.condition.empty() && !is_true(evaluate(branch.condition, scopes_, at(node))))
            continue;
          run(branch.body);
          break;
        }
        break;
      case Node::Kind::loop: loop(node); break;
    }
  }

  void set(const Node& node) {
    Value value = evaluate(node.expression, scopes_, at(node));
    const std::size_t dot = node.text.find('.');
    if (dot == node.text.npos) return scopes_.set(node.text, std::move(value));
    // A namespace: shared, so that what a loop sets is seen behind it.
    const Value space = scopes_.find(node.text.substr(0, dot));
    const auto* members = std::get_if<std::shared_ptr<Map>>(&space.of);
    if (members == nullptr)
      fail(at(node), ": found a member of ", node.text.substr(0, dot), "; expected a namespace");
    (**members)[node.text.substr(dot + 1)] = std::move(value);
  }

  void loop(const Node& node) {
    const Value over = evaluate(node.expression, scopes_, at(node));
    const auto* elements = std::get_if<std::shared_ptr<List>>(&over.of);
    if (elements == nullptr) fail(at(node), ": found no list to loop over; expected one");
    const List all = **elements;
    for (std::size_t i = 0; i < all.size(); ++i) {
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

Template::Template(std::string_view source, std::string place) : place_(std::move(place)) {
  if (source.size() > kMaxSource)
    fail(place_, ": found ", source.size(), " bytes; expected at most ", kMaxSource);
  nodes_ = parse(source, place_);
}

std::string Template::render(Map variables) const {
  Renderer renderer(std::move(variables), place_);
  renderer.run(nodes_);
  return renderer.take();
}

}  // namespace samba::jinja
