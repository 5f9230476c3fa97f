#include "text/tokenizer_config.h"

#include "text/json_node.h"

namespace samba {
namespace {

std::optional<std::string> token(const JsonNode& config, std::string_view key) {
  const auto node = config.find(key);
  if (!node) return {};
  return std::string(node->is_object() ? node->at("content").text() : node->text());
}

}  // namespace

TokenizerConfig parse_tokenizer_config(std::string_view bytes, const std::string& place) {
  const JsonDocument document(bytes, place);
  const JsonNode root = document.root();
  TokenizerConfig config;
  config.place = place;
  config.bos = token(root, "bos_token");
  config.eos = token(root, "eos_token");
  config.unknown = token(root, "unk_token");
  config.pad = token(root, "pad_token");
  if (const auto add = root.find("add_bos_token")) config.add_bos = add->boolean();
  return config;
}

}  // namespace samba
