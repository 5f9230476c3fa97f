#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "core/hash.h"

namespace samba {

/// Remembers the ids of words: a table of fixed size (4 MiB) in which a new word takes the place of
/// another of the same hash. Text repeats its words, so most need no merging. For one thread.
class WordTable {
 public:
  WordTable() : words_(kWords) {}

  /// Appends the ids of a word but the first `skip` ones. `make(word, ids)` appends the ids of a
  /// word that is not known; at least one.
  template <class Make>
  void append(std::string_view word, std::size_t skip, std::vector<std::int32_t>& ids,
              const Make& make) {
    const std::size_t before = ids.size();
    if (word.size() > sizeof Word::text) {
      make(word, ids);
      erase(ids, before, skip);
      return;
    }
    Word& known = words_[mix(fnv1a(word)) % kWords];
    if (known.count > 0 && std::string_view(known.text, known.bytes) == word) {
      ids.insert(ids.end(), known.ids + skip, known.ids + known.count);
      return;
    }
    make(word, ids);
    const std::size_t count = ids.size() - before;
    if (count > 0 && count <= std::size(known.ids)) {
      known.bytes = static_cast<std::uint8_t>(word.size());
      known.count = static_cast<std::uint8_t>(count);
      std::memcpy(known.text, word.data(), word.size());
      std::copy_n(ids.begin() + static_cast<std::ptrdiff_t>(before), count, known.ids);
    }
    erase(ids, before, skip);
  }

 private:
  /// 64 bytes: a cache line.
  struct alignas(64) Word {
    std::uint8_t bytes = 0;
    std::uint8_t count = 0;  ///< of ids; 0: empty
    char text[30];
    std::int32_t ids[8];
  };
  static constexpr std::size_t kWords = std::size_t{1} << 16;

  std::vector<Word> words_;

  static void erase(std::vector<std::int32_t>& ids, std::size_t from, std::size_t count) {
    const auto first = ids.begin() + static_cast<std::ptrdiff_t>(from);
    ids.erase(first, first + static_cast<std::ptrdiff_t>(count));
  }
};

}  // namespace samba
