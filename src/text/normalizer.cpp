#include "text/normalizer.h"

#include "text/unicode.h"

namespace samba {

std::string string_pattern(const JsonNode& pattern) {
  const auto text = pattern.find("String");
  if (!text || text->text().empty())
    fail(pattern.place(), ": found no \"String\"; expected a text to replace");
  return std::string(text->text());
}

std::string inserted_text(const JsonNode& node) {
  constexpr std::size_t kLongest = 64;
  const std::string_view text = node.text();
  if (text.size() > kLongest)
    fail(node.place(), ": found ", text.size(), " bytes; expected at most ", kLongest);
  return std::string(text);
}

void append_replaced(std::string& out, std::string_view text, std::string_view from,
                     std::string_view to) {
  for (std::size_t at; (at = text.find(from)) != text.npos;) {
    out.append(text.substr(0, at)).append(to);
    text.remove_prefix(at + from.size());
  }
  out += text;
}

Normalizer::Normalizer(const JsonNode& node) {
  add(node);
}

void Normalizer::add(const JsonNode& node) {
  const JsonNode type_node = node.at("type");
  const std::string_view type = type_node.text();
  if (type == "Sequence")
    for (const JsonNode& step : node.at("normalizers").elements()) add(step);
  else if (type == "NFC")
    steps_.emplace_back(Compose{});
  else if (type == "Prepend")
    steps_.emplace_back(Prepend{inserted_text(node.at("prepend"))});
  else if (type == "Replace")
    steps_.emplace_back(
        Replace{string_pattern(node.at("pattern")), inserted_text(node.at("content"))});
  else
    type_node.refuse(type, "NFC, Prepend, Replace or Sequence");
}

std::string_view Normalizer::apply(std::string_view text, std::string (&buffers)[2]) const {
  for (std::size_t i = 0; i < steps_.size() && !text.empty(); ++i) {
    // A step reads what the one before it wrote.
    std::string& buffer = buffers[i % 2];
    if (const auto* prepend = std::get_if<Prepend>(&steps_[i])) {
      buffer.assign(prepend->text).append(text);
      text = buffer;
    } else if (const auto* replace = std::get_if<Replace>(&steps_[i])) {
      buffer.clear();
      append_replaced(buffer, text, replace->from, replace->to);
      text = buffer;
    } else {
      text = compose(text, buffer);
    }
  }
  return text;
}

}  // namespace samba
