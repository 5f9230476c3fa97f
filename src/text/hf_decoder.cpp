#include "text/hf_decoder.h"

#include <array>
#include <utility>

#include "text/bpe.h"

namespace samba {
namespace {

/// Bytes that are printable as Latin-1 stand for themselves, the others for 256, 257 and so on.
constexpr bool stands_for_itself(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr std::size_t kLetters = 256 + 68;
constexpr std::array<std::int16_t, kLetters> kByteOfLetter = [] {
  std::array<std::int16_t, kLetters> bytes{};
  bytes.fill(-1);
  std::size_t other = 256;
  for (int byte = 0; byte < 256; ++byte)
    bytes[stands_for_itself(byte) ? static_cast<std::size_t>(byte) : other++] =
        static_cast<std::int16_t>(byte);
  return bytes;
}();

/// Steps of a Sequence in the only order that can be streamed token by token.
enum class Order : std::uint8_t { begin, replace, byte_fallback, fuse, strip };

void add_step(const JsonNode& node, DecodeRules& rules, Order& reached) {
  const JsonNode type_node = node.at("type");
  const std::string_view type = type_node.text();
  const auto step = [&](Order order) {
    if (order < reached) type_node.refuse(type, "the order Replace, ByteFallback, Fuse, Strip");
    reached = order;
  };
  if (type == "Replace") {
    step(Order::replace);
    rules.replaced.add(node);
  } else if (type == "ByteFallback") {
    step(Order::byte_fallback);
    rules.byte_fallback = true;
  } else if (type == "Fuse") {
    step(Order::fuse);
  } else if (type == "Strip") {
    if (reached != Order::fuse) type_node.refuse(type, "it behind Fuse");
    step(Order::strip);
    constexpr std::int32_t kMost = 1 << 20;
    rules.strip = node.at("content").text();
    if (rules.strip.empty() || utf8_length(rules.strip) != rules.strip.size())
      node.at("content").refuse(rules.strip, "one character");
    rules.strip_most = node.at("start").number(kMost);
    // What follows is not known while text is streamed.
    if (const JsonNode stop = node.at("stop"); stop.number(kMost) != 0)
      fail(stop.place(), ": found a number of characters to drop at the end; expected 0");
  } else {
    type_node.refuse(type, "Replace, ByteFallback, Fuse or Strip");
  }
}

}  // namespace

int byte_of_letter(char32_t code) {
  return code < kLetters ? kByteOfLetter[code] : -1;
}

bool spelled_bytes(std::string_view token, std::string& bytes) {
  bytes.clear();
  for (std::size_t at = 0; at < token.size();) {
    const int byte = byte_of_letter(next_code_point(token, at));
    if (byte < 0) return false;
    bytes += static_cast<char>(byte);
  }
  return true;
}

DecodeRules parse_decoder(const JsonNode& node) {
  const JsonNode type_node = node.at("type");
  const std::string_view type = type_node.text();
  DecodeRules rules;
  if (type == "ByteLevel") return rules;
  rules.bytes = false;
  if (type == "Metaspace") {
    rules.space = node.text("replacement", "\u2581");
    if (rules.space.empty()) node.at("replacement").refuse("", "one character");
    rules.drop_first_spaces =
        node.text("prepend_scheme", "always") != "never" && node.boolean("add_prefix_space", true);
    return rules;
  }
  Order reached = Order::begin;
  if (type == "Sequence") {
    const std::vector<JsonNode> steps = node.at("decoders").elements();
    if (steps.size() == 1 && steps[0].at("type").text() == "ByteLevel") return {};
    for (const JsonNode& step : steps) add_step(step, rules, reached);
  } else if (type == "ByteFallback" || type == "Fuse" || type == "Replace") {
    add_step(node, rules, reached);
  } else {
    type_node.refuse(type, "ByteLevel, Metaspace or Sequence");
  }
  return rules;
}

Surface surface_of(std::string_view token, const DecodeRules& rules) {
  Surface surface;
  if (rules.bytes) {
    if (!spelled_bytes(token, surface.text)) surface.text = token;
    return surface;
  }
  surface.text = rules.replaced.apply(token);
  if (!rules.space.empty()) {
    std::string replaced;
    append_replaced(replaced, surface.text, rules.space, " ");
    surface.text = std::move(replaced);
  }
  if (const int byte = fallback_byte(surface.text); rules.byte_fallback && byte >= 0) {
    surface.text = static_cast<char>(byte);
    surface.kind = Surface::Kind::byte;
  }
  return surface;
}

std::string HfDecoder::push(std::int32_t id) {
  const Surface& surface = surfaces_[static_cast<std::size_t>(id)];
  if (surface.kind == Surface::Kind::hidden) return "";
  const bool first = std::exchange(first_, false);
  if (rules_.bytes || surface.kind == Surface::Kind::byte) {
    buffer_.add(surface.text);
    return stripped(buffer_.take(false));
  }
  std::string text = buffer_.take(true);
  if (first && rules_.drop_first_spaces)
    append_replaced(text, surface.text, " ", "");
  else
    text += surface.text;
  return stripped(std::move(text));
}

std::string HfDecoder::flush() {
  std::string text = stripped(buffer_.take(true));
  first_ = true;
  began_ = false;
  stripped_ = 0;
  return text;
}

std::string HfDecoder::stripped(std::string text) {
  if (began_) return text;
  while (stripped_ < rules_.strip_most && text.starts_with(rules_.strip)) {
    text.erase(0, rules_.strip.size());
    ++stripped_;
  }
  began_ = !text.empty();
  return text;
}

}  // namespace samba
