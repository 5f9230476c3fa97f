#include "text/json_node.h"

#include "core/utf8.h"

namespace samba {
namespace {

constexpr std::size_t kDeepest = 64;

const char* kind_of(simdjson::dom::element element) {
  switch (element.type()) {
    case simdjson::dom::element_type::ARRAY: return "a list";
    case simdjson::dom::element_type::OBJECT: return "an object";
    case simdjson::dom::element_type::STRING: return "a string";
    case simdjson::dom::element_type::BOOL: return "a boolean";
    case simdjson::dom::element_type::NULL_VALUE: return "null";
    default: return "a number";
  }
}

bool is_control(char32_t code) {
  return code < 0x20 || (code >= 0x7f && code < 0xa0);
}

}  // namespace

std::string quote(std::string_view text) {
  constexpr std::size_t kShown = 60;
  std::string shown = "\"";
  std::size_t at = 0;
  while (at < text.size() && at < kShown) {
    const char32_t code = next_code_point(text, at);
    if (code == '\n')
      shown += "\\n";
    else
      append_utf8(shown, is_control(code) ? kReplacement : code);
  }
  return shown + (at < text.size() ? "...\"" : "\"");
}

std::optional<JsonNode> JsonNode::find(std::string_view key) const {
  simdjson::dom::element member;
  if (object().at_key(key).get(member) != simdjson::SUCCESS || member.is_null()) return {};
  // Places of the document's top level read "FILE: key", deeper ones "FILE: key.key".
  const bool top = place_.find(": ") == place_.npos;
  return JsonNode(member, place_ + (top ? ": " : ".") + std::string(key));
}

JsonNode JsonNode::at(std::string_view key) const {
  if (auto member = find(key)) return *member;
  fail(place_, ": found no ", quote(key), "; expected it");
}

std::vector<JsonNode> JsonNode::elements() const {
  std::vector<JsonNode> all;
  for (const simdjson::dom::element element : list())
    all.emplace_back(element, text_of(place_, '[', all.size(), ']'));
  return all;
}

void JsonNode::expected(std::string_view kind) const {
  fail(place_, ": found ", kind_of(element_), "; expected ", kind);
}

void JsonNode::refuse(std::string_view found, std::string_view expected) const {
  fail(place_, ": found ", quote(found), "; expected ", expected);
}

simdjson::dom::object JsonNode::object() const {
  if (!element_.is_object()) expected("an object");
  return element_.get_object();
}

simdjson::dom::array JsonNode::list() const {
  if (!element_.is_array()) expected("a list");
  return element_.get_array();
}

std::string_view JsonNode::text() const {
  if (!element_.is_string()) expected("a string");
  return element_.get_string();
}

bool JsonNode::boolean() const {
  if (!element_.is_bool()) expected("true or false");
  return element_.get_bool();
}

std::int32_t JsonNode::number(std::int32_t most) const {
  std::int64_t value = -1;
  if (element_.get_int64().get(value) != simdjson::SUCCESS || value < 0 || value > most) {
    std::string found = simdjson::to_string(element_);
    if (!element_.is_number()) found = kind_of(element_);
    fail(place_, ": found ", found, "; expected a whole number from 0 to ", most);
  }
  return static_cast<std::int32_t>(value);
}

std::string JsonNode::text(std::string_view key, std::string_view otherwise) const {
  const auto member = find(key);
  return std::string(member ? member->text() : otherwise);
}

bool JsonNode::boolean(std::string_view key, bool otherwise) const {
  const auto member = find(key);
  return member ? member->boolean() : otherwise;
}

void expect_few_steps(const JsonNode& step, std::size_t count) {
  constexpr std::size_t kMost = 64;
  if (count >= kMost)
    fail(step.place(), ": found more than ", kMost, " steps; expected as many at most");
}

JsonDocument::JsonDocument(std::string_view bytes, const std::string& name) : name_(name) {
  // The parser's memory is a small multiple of the text's, whatever the text says.
  simdjson::error_code error = parser_.allocate(std::max<std::size_t>(bytes.size(), 1), kDeepest);
  if (error == simdjson::SUCCESS)
    error = parser_.parse(bytes.data(), bytes.size(), true).get(root_);
  if (error == simdjson::SUCCESS) return;
  std::string reason = simdjson::error_message(error);
  while (!reason.empty() && (reason.back() == '.' || reason.back() == ' ')) reason.pop_back();
  fail(name, ": found text that is no JSON: ", reason, "; expected a JSON object");
}

}  // namespace samba
