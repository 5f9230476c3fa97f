#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace samba {

/// Two tokens that are joined to a third; the place in the list of merges is the rank.
struct Merge {
  std::int32_t left = 0, right = 0, joined = 0;
};

/// What merging starts from and follows. Ids are places in `tokens`; "" is no token.
struct BpeModel {
  std::vector<std::string> tokens;  ///< of a byte-level model the bytes that they stand for
  std::vector<Merge> merges;
  bool bytes = false;  ///< starts from single bytes, else from characters
  /// Characters that are no token become the tokens <0x00> to <0xFF> of their bytes.
  bool byte_fallback = false;
  std::int32_t unknown = -1;   ///< for other characters; -1: they are dropped
  bool fuse_unknown = false;   ///< one such token for several in a row
  bool ignore_merges = false;  ///< a word that is a token is not taken apart
};

/// Byte-pair encoding by a list of merges: of all neighbours that a merge joins, those of the
/// lowest rank are joined first, the leftmost of equal ones.
class Bpe {
 public:
  explicit Bpe(BpeModel model);
  Bpe(const Bpe&) = delete;  // ids_ looks at the tokens
  Bpe& operator=(const Bpe&) = delete;

  /// Appends the ids of a word, valid UTF-8. n log n in its length.
  void encode(std::string_view word, std::vector<std::int32_t>& ids) const;
  /// Whether border_after() may be used: not of models where more than merges joins neighbours.
  bool has_borders() const { return has_borders_; }
  /// The first place behind text[begin] that no merge joins across, or the end: what is before and
  /// behind it can be encoded alone.
  std::size_t border_after(std::string_view text, std::size_t begin) const;

 private:
  struct Entry {
    std::uint64_t pair = kNone;
    std::uint32_t rank = 0;
    std::int32_t joined = 0;
  };
  struct Symbol {
    std::int32_t id = 0;  ///< -1: joined to the one before
    std::int32_t previous = 0, next = 0;
  };
  struct Candidate {
    std::uint64_t order = 0;  ///< rank, then place
    std::int32_t joined = 0;
  };
  /// Memory that a thread's calls share.
  struct Scratch {
    std::vector<Symbol> symbols;
    std::vector<Candidate> queue;
  };
  static constexpr std::uint64_t kNone = ~std::uint64_t{0};
  /// Classes of characters for borders: ASCII, the space of SentencePiece, all others.
  static constexpr std::size_t kSpaceClass = 128, kOtherClass = 129, kClasses = 130;

  BpeModel model_;
  std::array<std::int32_t, 256> byte_ids_{};  ///< -1: no token
  std::unordered_map<std::string_view, std::int32_t> ids_;
  std::vector<Entry> pairs_;  ///< open addressing, a power of two
  bool has_borders_ = false;
  std::bitset<kClasses * kClasses> joined_;

  void index_pairs();
  void index_borders();
  static std::size_t border_class(std::string_view text, std::size_t at, std::size_t& bytes);
  const Entry* find(std::int32_t left, std::int32_t right) const;
  void start_from_bytes(std::string_view word, std::vector<Symbol>& symbols) const;
  void start_from_characters(std::string_view word, std::vector<Symbol>& symbols) const;
  void merge(Scratch& scratch) const;
  void offer(Scratch& scratch, std::int32_t place) const;
};

/// The byte that a token "<0xHH>" stands for; -1 for other tokens.
int fallback_byte(std::string_view token);

}  // namespace samba
