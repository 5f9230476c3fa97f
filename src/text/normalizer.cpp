#include "text/normalizer.h"

#include "text/unicode.h"

namespace samba {

const Replacement& Replacements::add(const JsonNode& node) {
  constexpr std::size_t kMostGrowth = 8;
  expect_few_steps(node, all_.size());
  const JsonNode pattern = node.at("pattern"), content = node.at("content");
  const auto from = pattern.find("String");
  if (!from || from->text().empty())
    fail(pattern.place(), ": found no \"String\"; expected a text to replace");
  const std::string_view to = content.text();
  const std::size_t size = from->text().size();
  growth_ *= std::max<std::size_t>(1, (to.size() + size - 1) / size);
  if (growth_ > kMostGrowth)
    content.refuse(to, text_of("text at most ", kMostGrowth, " times as long as what it replaces"));
  all_.push_back({std::string(from->text()), std::string(to)});
  return all_.back();
}

std::string Replacements::apply(std::string_view text) const {
  std::string result(text);
  for (const Replacement& replacement : all_) {
    std::string replaced;
    append_replaced(replaced, result, replacement.from, replacement.to);
    result = std::move(replaced);
  }
  return result;
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
  constexpr std::size_t kLongestPrepend = 64;
  expect_few_steps(node, steps_.size());
  const JsonNode type_node = node.at("type");
  const std::string_view type = type_node.text();
  if (type == "Sequence") {
    for (const JsonNode& step : node.at("normalizers").elements()) add(step);
  } else if (type == "NFC") {
    steps_.emplace_back(Compose{});
  } else if (type == "Prepend") {
    const JsonNode text = node.at("prepend");
    if (text.text().size() > kLongestPrepend)
      text.refuse(text.text(), text_of("at most ", kLongestPrepend, " bytes"));
    steps_.emplace_back(Prepend{std::string(text.text())});
  } else if (type == "Replace") {
    steps_.emplace_back(replacements_.add(node));
  } else {
    type_node.refuse(type, "NFC, Prepend, Replace or Sequence");
  }
}

std::string_view Normalizer::apply(std::string_view text, std::string (&buffers)[2]) const {
  for (std::size_t i = 0; i < steps_.size() && !text.empty(); ++i) {
    // A step reads what the one before it wrote.
    std::string& buffer = buffers[i % 2];
    if (const auto* prepend = std::get_if<Prepend>(&steps_[i])) {
      buffer.assign(prepend->text).append(text);
      text = buffer;
    } else if (const auto* replace = std::get_if<Replacement>(&steps_[i])) {
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
