#include "text/bpe.h"

#include <algorithm>
#include <bit>
#include <charconv>

#include "core/hash.h"
#include "text/unicode.h"

namespace samba {
namespace {

constexpr std::string_view kSpace = "\u2581";

std::uint64_t pair_of(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
         static_cast<std::uint32_t>(right);
}

}  // namespace

int fallback_byte(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return -1;
  int byte = 0;
  const char* end = token.data() + 5;
  const auto [stop, error] = std::from_chars(token.data() + 3, end, byte, 16);
  return error == std::errc() && stop == end && byte >= 0 ? byte : -1;
}

Bpe::Bpe(BpeModel model) : model_(std::move(model)) {
  byte_ids_.fill(-1);
  for (std::size_t id = 0; id < model_.tokens.size(); ++id) {
    const std::string& token = model_.tokens[id];
    if (token.empty()) continue;
    ids_.emplace(token, static_cast<std::int32_t>(id));
    if (model_.bytes) {
      if (token.size() == 1)
        byte_ids_[static_cast<unsigned char>(token[0])] = static_cast<std::int32_t>(id);
    } else if (const int byte = fallback_byte(token); byte >= 0 && model_.byte_fallback) {
      byte_ids_[static_cast<std::size_t>(byte)] = static_cast<std::int32_t>(id);
    }
  }
  index_pairs();
  index_borders();
}

void Bpe::index_pairs() {
  // At most half full, so that a search soon meets an empty place.
  pairs_.resize(std::bit_ceil(2 * model_.merges.size() + 1));
  for (std::size_t rank = 0; rank < model_.merges.size(); ++rank) {
    const Merge& merge = model_.merges[rank];
    const std::uint64_t pair = pair_of(merge.left, merge.right);
    std::size_t at = mix(pair) & (pairs_.size() - 1);
    while (pairs_[at].pair != kNone && pairs_[at].pair != pair) at = (at + 1) & (pairs_.size() - 1);
    pairs_[at] = {pair, static_cast<std::uint32_t>(rank), merge.joined};
  }
}

const Bpe::Entry* Bpe::find(std::int32_t left, std::int32_t right) const {
  const std::uint64_t pair = pair_of(left, right);
  std::size_t at = mix(pair) & (pairs_.size() - 1);
  while (pairs_[at].pair != kNone) {
    if (pairs_[at].pair == pair) return &pairs_[at];
    at = (at + 1) & (pairs_.size() - 1);
  }
  return nullptr;
}

std::size_t Bpe::border_class(std::string_view text, std::size_t at, std::size_t& bytes) {
  const auto first = static_cast<unsigned char>(text[at]);
  if (first < 0x80) {
    bytes = 1;
    return first;
  }
  bytes = char_at(text, at).bytes;
  return text.substr(at, bytes) == kSpace ? kSpaceClass : kOtherClass;
}

void Bpe::index_borders() {
  const bool all_known =
      model_.byte_fallback && std::find(byte_ids_.begin(), byte_ids_.end(), -1) == byte_ids_.end();
  if (model_.bytes || model_.ignore_merges || (model_.fuse_unknown && !all_known)) return;
  for (const Merge& merge : model_.merges) {
    for (const std::int32_t part : {merge.left, merge.right})
      if (part == model_.unknown ||
          fallback_byte(model_.tokens[static_cast<std::size_t>(part)]) >= 0)
        return;
    const std::string_view token = model_.tokens[static_cast<std::size_t>(merge.joined)];
    std::size_t bytes = 0;
    std::size_t before = border_class(token, 0, bytes);
    for (std::size_t at = bytes; at < token.size(); at += bytes) {
      const std::size_t behind = border_class(token, at, bytes);
      joined_.set(before * kClasses + behind);
      before = behind;
    }
  }
  has_borders_ = true;
}

std::size_t Bpe::border_after(std::string_view text, std::size_t begin) const {
  std::size_t bytes = 0;
  std::size_t before = border_class(text, begin, bytes);
  for (std::size_t at = begin + bytes; at < text.size(); at += bytes) {
    const std::size_t behind = border_class(text, at, bytes);
    if (!joined_[before * kClasses + behind]) return at;
    before = behind;
  }
  return text.size();
}

void Bpe::start_from_bytes(std::string_view word, std::vector<Symbol>& symbols) const {
  for (const char c : word) {
    const std::int32_t id = byte_ids_[static_cast<unsigned char>(c)];
    if (id >= 0)
      symbols.push_back({id});
    else if (model_.unknown >= 0 &&
             !(model_.fuse_unknown && !symbols.empty() && symbols.back().id == model_.unknown))
      symbols.push_back({model_.unknown});
  }
}

void Bpe::start_from_characters(std::string_view word, std::vector<Symbol>& symbols) const {
  bool after_unknown = false;
  for (std::size_t at = 0; at < word.size();) {
    const std::string_view character = word.substr(at, char_at(word, at).bytes);
    at += character.size();
    if (const auto found = ids_.find(character); found != ids_.end()) {
      symbols.push_back({found->second});
      after_unknown = false;
      continue;
    }
    const bool has_bytes =
        model_.byte_fallback && std::all_of(character.begin(), character.end(), [&](char c) {
          return byte_ids_[static_cast<unsigned char>(c)] >= 0;
        });
    if (has_bytes) {
      for (const char c : character) symbols.push_back({byte_ids_[static_cast<unsigned char>(c)]});
      after_unknown = false;
    } else if (model_.unknown >= 0) {
      if (!(after_unknown && model_.fuse_unknown)) symbols.push_back({model_.unknown});
      after_unknown = true;
    }
  }
}

void Bpe::encode(std::string_view word, std::vector<std::int32_t>& ids) const {
  if (model_.ignore_merges)
    if (const auto found = ids_.find(word); found != ids_.end())
      return ids.push_back(found->second);
  static thread_local Scratch scratch;
  scratch.symbols.clear();
  if (model_.bytes)
    start_from_bytes(word, scratch.symbols);
  else
    start_from_characters(word, scratch.symbols);
  merge(scratch);
  for (const Symbol& symbol : scratch.symbols)
    if (symbol.id >= 0) ids.push_back(symbol.id);
}

void Bpe::offer(Scratch& scratch, std::int32_t place) const {
  const Symbol& left = scratch.symbols[static_cast<std::size_t>(place)];
  if (left.next < 0) return;
  const Entry* entry = find(left.id, scratch.symbols[static_cast<std::size_t>(left.next)].id);
  if (entry == nullptr) return;
  scratch.queue.push_back(
      {std::uint64_t{entry->rank} << 32 | static_cast<std::uint32_t>(place), entry->joined});
}

void Bpe::merge(Scratch& scratch) const {
  std::vector<Symbol>& symbols = scratch.symbols;
  std::vector<Candidate>& queue = scratch.queue;
  const auto later = [](const Candidate& a, const Candidate& b) { return a.order > b.order; };
  const auto count = static_cast<std::int32_t>(symbols.size());
  for (std::int32_t i = 0; i < count; ++i) {
    symbols[static_cast<std::size_t>(i)].previous = i - 1;
    symbols[static_cast<std::size_t>(i)].next = i + 1 < count ? i + 1 : -1;
  }
  queue.clear();
  for (std::int32_t i = 0; i < count; ++i) offer(scratch, i);
  std::make_heap(queue.begin(), queue.end(), later);
  while (!queue.empty()) {
    std::pop_heap(queue.begin(), queue.end(), later);
    const Candidate best = queue.back();
    queue.pop_back();
    const auto place = static_cast<std::int32_t>(best.order & 0xffffffffu);
    Symbol& left = symbols[static_cast<std::size_t>(place)];
    if (left.id < 0 || left.next < 0) continue;
    Symbol& right = symbols[static_cast<std::size_t>(left.next)];
    // One of the two may have been joined to another since this was offered.
    const Entry* entry = find(left.id, right.id);
    if (entry == nullptr || entry->joined != best.joined) continue;
    left.id = best.joined;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) symbols[static_cast<std::size_t>(left.next)].previous = place;
    for (const std::int32_t next : {left.previous, place}) {
      if (next < 0) continue;
      const std::size_t before = queue.size();
      offer(scratch, next);
      if (queue.size() > before) std::push_heap(queue.begin(), queue.end(), later);
    }
  }
}

}  // namespace samba
