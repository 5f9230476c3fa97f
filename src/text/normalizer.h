#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "text/json_node.h"

namespace samba {

/// A `pattern` that is a string and the `content` that is to stand in its place.
struct Replacement {
  std::string from, to;
};

/// Replacements one after the other.
class Replacements {
 public:
  /// Adds the one at this place. Throws an Error on a pattern that is "" or no string, and when a
  /// text could become more than 8 times as long: a file is not to ask for much memory.
  const Replacement& add(const JsonNode&);
  std::string apply(std::string_view text) const;

 private:
  std::vector<Replacement> all_;
  std::size_t growth_ = 1;
};

/// Appends text with every `from`, which is not empty, replaced by `to`.
void append_replaced(std::string& out, std::string_view text, std::string_view from,
                     std::string_view to);

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
  std::vector<std::variant<Compose, Prepend, Replacement>> steps_;
  Replacements replacements_;  ///< all of steps_, for their growth

  void add(const JsonNode&);
};

}  // namespace samba
