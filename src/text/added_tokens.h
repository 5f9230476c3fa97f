#pragma once

#include <bitset>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace samba {

/// A token that is found in text as it stands (`added_tokens` of a tokenizer.json).
struct AddedToken {
  std::string content;
  std::int32_t id = 0;
  bool special = false;      ///< invisible in decoded text
  bool single_word = false;  ///< not inside a word
  bool lstrip = false;       ///< takes the white space before it
  bool rstrip = false;       ///< takes the white space behind it
  bool normalized = true;    ///< found in normalised text
};

/// Finds tokens in text: at each place the longest, from left to right.
class AddedTokens {
 public:
  /// Takes a token's id and an empty text, or -1 and the text between tokens.
  using Sink = std::function<void(std::int32_t id, std::string_view text)>;

  AddedTokens() = default;
  /// Tokens whose content is empty are never found. Of two with the same content the later counts.
  explicit AddedTokens(std::vector<AddedToken> tokens);

  /// Cuts valid UTF-8 text at tokens. Takes time in proportion to the text, times at worst the
  /// length of the longest token.
  void split(std::string_view text, const Sink& sink) const;

 private:
  /// A node of the trie of contents; its edges are edges_[first_edge .. first_edge + edges).
  struct Node {
    std::int32_t token = -1;  ///< index of the token that ends here
    std::uint32_t first_edge = 0;
    std::uint32_t edges = 0;
  };
  struct Edge {
    std::uint8_t byte = 0;
    std::uint32_t node = 0;
  };

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_;
  std::vector<Edge> edges_;
  std::vector<std::uint32_t> roots_;  ///< the node behind a first byte; 0: none
  std::bitset<1 << 16> begins_;       ///< pairs of bytes that a token may begin with

  bool may_begin(std::string_view text, std::size_t at) const;
  std::pair<std::int32_t, std::size_t> longest(std::string_view text, std::size_t at) const;
};

}  // namespace samba
