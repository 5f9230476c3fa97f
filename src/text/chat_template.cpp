#include "text/chat_template.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "text/json_node.h"
#include "text/tokenizer_config.h"

namespace samba {
namespace {

const TokenizerFile* find(const Tokenizer& tokenizer, std::string_view name) {
  const auto& files = tokenizer.files();
  const auto found = std::find_if(files.begin(), files.end(),
                                  [&](const TokenizerFile& file) { return file.name == name; });
  return found == files.end() ? nullptr : &*found;
}

/// The template at this place: itself, or the default one of a list.
std::string default_template(const JsonNode& node) {
  if (!node.is_list()) return std::string(node.text());
  for (const JsonNode& entry : node.elements())
    if (entry.at("name").text() == "default") return std::string(entry.at("template").text());
  fail(node.place(), ": found no template of the name \"default\"; expected one");
}

std::string text_of_mark(const Tokenizer& tokenizer, std::int32_t id) {
  return id < 0 ? "" : std::string(tokenizer.token(id));
}

}  // namespace

ChatTemplate::ChatTemplate(std::string_view source, std::string place, std::string bos,
                           std::string eos)
    : template_(source, std::move(place)), bos_(std::move(bos)), eos_(std::move(eos)) {}

std::string ChatTemplate::format(std::span<const Message> messages, bool generation) const {
  using jinja::Value;
  jinja::List list;
  for (const Message& message : messages) {
    if (message.role != "system" && message.role != "user" && message.role != "assistant")
      fail("message ", list.size() + 1, ": found the role ", quote(message.role),
           "; expected system, user or assistant");
    list.push_back(Value::map({{"role", {message.role}}, {"content", {message.content}}}));
  }
  return template_.render({{"messages", Value::list(std::move(list))},
                           {"add_generation_prompt", {generation}},
                           {"bos_token", {bos_}},
                           {"eos_token", {eos_}}});
}

std::optional<ChatTemplate> find_chat_template(const Tokenizer& tokenizer) {
  const std::string bos = text_of_mark(tokenizer, tokenizer.bos());
  const std::string eos = text_of_mark(tokenizer, tokenizer.eos());
  if (const TokenizerFile* file = find(tokenizer, kChatTemplate))
    return ChatTemplate(file->bytes, file->place, bos, eos);
  const TokenizerFile* file = find(tokenizer, kTokenizerConfig);
  if (file == nullptr) return {};
  const JsonDocument document(file->bytes, file->place);
  const auto node = document.root().find("chat_template");
  if (!node) return {};
  return ChatTemplate(default_template(*node), node->place(), bos, eos);
}

}  // namespace samba
