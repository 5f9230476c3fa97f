#pragma once

#include <optional>
#include <span>
#include <string>

#include "text/jinja.h"
#include "text/tokenizer.h"

namespace samba {

/// A message of a conversation.
struct Message {
  std::string role;     ///< "system", "user" or "assistant"
  std::string content;  ///< UTF-8
};

/// How a model wants a conversation written: the chat template beside its tokenizer.
class ChatTemplate {
 public:
  /// `source`: the template (see jinja::Template); `place` stands for it in errors; bos and eos:
  /// the texts of these tokens, "" where there are none.
  ChatTemplate(std::string_view source, std::string place, std::string bos, std::string eos);

  /// The conversation as text, begin mark included where the template writes one; special tokens in
  /// it are found by Tokenizer::encode_marked. `generation`: it ends where an answer of the
  /// assistant begins. Throws an Error on other roles, on an order of roles that the template
  /// refuses, and where the template uses what jinja::Template lacks.
  std::string format(std::span<const Message> messages, bool generation) const;

 private:
  jinja::Template template_;
  std::string bos_, eos_;
};

/// The chat template of a tokenizer: chat_template.jinja, else `chat_template` of
/// tokenizer_config.json, which is a text or a list of {"name", "template"} of which "default" is
/// taken. Empty where there is none. Throws an Error that names the file.
std::optional<ChatTemplate> find_chat_template(const Tokenizer&);

}  // namespace samba
