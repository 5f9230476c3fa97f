#include "text/encoder.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "core/hash.h"

namespace samba {
namespace {

constexpr std::string_view kSpace = "\u2581";
constexpr std::size_t kWords = std::size_t{1} << 16;
constexpr std::uint64_t kBpe = 2;

bool can_cut(const PieceModel& model) {
  if (model.model_type != kBpe || !model.byte_fallback || model.normalizes ||
      !model.add_dummy_prefix || model.remove_extra_whitespaces || !model.escape_whitespaces ||
      model.whitespace_as_suffix)
    return false;
  return std::all_of(model.pieces.begin(), model.pieces.end(), [](const Piece& piece) {
    // User-defined pieces are found before any joining, unused ones are taken apart after it.
    if (piece.type == PieceType::user_defined || piece.type == PieceType::unused) return false;
    if (piece.type != PieceType::normal) return true;
    std::string_view rest = piece.text;
    while (rest.starts_with(kSpace)) rest.remove_prefix(kSpace.size());
    return rest.find(kSpace) == rest.npos && rest.find('\n') == rest.npos;
  });
}

}  // namespace

Encoder::Encoder(Tokenizer tokenizer) : tokenizer_(std::move(tokenizer)) {
  if (!can_cut(tokenizer_.model())) return;
  table_.resize(kWords);
  space_ = tokenizer_.encode("\n");
  line_break_ = space_.back();
  space_.pop_back();
}

void Encoder::encode(std::string_view text, std::vector<std::int32_t>& ids) {
  if (text.empty()) return;
  if (!cuts()) {
    const std::vector<std::int32_t> all = tokenizer_.encode(text);
    ids.insert(ids.end(), all.begin(), all.end());
    return;
  }
  // A word is either what follows a space, which then is its dummy prefix, or what follows a line
  // break, which is encoded with that line break before it and then cut off again.
  std::size_t begin = 0;
  bool after_break = false;
  for (std::size_t i = 1; i <= text.size(); ++i) {
    const bool end = i == text.size();
    const bool line_break = !end && text[i] == '\n';
    const bool space = !end && text[i] == ' ' && text[i - 1] != ' ' &&
                       !(text[i - 1] == kSpace.back() && text.substr(0, i).ends_with(kSpace));
    if (!end && !line_break && !space) continue;
    if (after_break) {
      if (i > begin + 1) append(text.substr(begin, i - begin), space_.size() + 1, ids);
    } else if (i > begin) {
      append(text.substr(begin, i - begin), 0, ids);
    } else {
      ids.insert(ids.end(), space_.begin(), space_.end());
    }
    if (line_break) ids.push_back(line_break_);
    after_break = line_break;
    begin = line_break ? i : i + 1;
  }
}

void Encoder::append(std::string_view word, std::size_t skip, std::vector<std::int32_t>& ids) {
  const auto add = [&](const std::int32_t* first, std::size_t count) {
    ids.insert(ids.end(), first + skip, first + count);
  };
  if (word.size() > sizeof Word::text) {
    const std::vector<std::int32_t> found = tokenizer_.encode(word);
    return add(found.data(), found.size());
  }
  Word& known = table_[mix(fnv1a(word)) % kWords];
  if (std::string_view(known.text, known.bytes) != word) {
    const std::vector<std::int32_t> found = tokenizer_.encode(word);
    if (found.size() > std::size(known.ids)) return add(found.data(), found.size());
    known.bytes = static_cast<std::uint8_t>(word.size());
    known.count = static_cast<std::uint8_t>(found.size());
    std::memcpy(known.text, word.data(), word.size());
    std::copy(found.begin(), found.end(), known.ids);
  }
  add(known.ids, known.count);
}

}  // namespace samba
