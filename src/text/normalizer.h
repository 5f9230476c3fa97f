#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "text/json_node.h"

namespace samba {

/// Rewrites text before it is cut (`normalizer` of a tokenizer.json).
class Normalizer {
 public:
  /// Leaves text as it is.
  Normalizer() = default;
  /// The normalizer at this place: NFC, Prepend, Replace of a string, or a Sequence of them. Throws
  /// an Error on others, by their name.
  explicit Normalizer(const JsonNode&);

  /// The text, valid UTF-8, or a view of one of the two buffers.
  std::string_view apply(std::string_view text, std::string (&buffers)[2]) const;

 private:
  struct Compose {};  ///< to Unicode's form C
  struct Prepend {
    std::string text;
  };
  struct Replace {
    std::string from, to;
  };
  std::vector<std::variant<Compose, Prepend, Replace>> steps_;

  void add(const JsonNode&);
};

/// The string of a `pattern`, which is {"String": ...}; throws an Error on others and on "".
std::string string_pattern(const JsonNode& pattern);

/// Text that a file may ask to have inserted: at most 64 bytes.
std::string inserted_text(const JsonNode&);

/// Appends text with every `from`, which is not empty, replaced by `to`.
void append_replaced(std::string& out, std::string_view text, std::string_view from,
                     std::string_view to);

}  // namespace samba
