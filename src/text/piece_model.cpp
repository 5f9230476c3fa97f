#include "text/piece_model.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "core/error.h"

namespace samba {
namespace {

constexpr std::size_t kMaxPieces = std::size_t{1} << 20;
constexpr std::size_t kMaxPieceBytes = 4096;

/// One field of a protocol buffer message; numbers of every width are in `number`.
struct Field {
  std::uint64_t id = 0;
  std::uint64_t wire_type = 0;
  std::uint64_t number = 0;
  std::string_view bytes;
};

/// Walks over the fields of a message.
class Message {
 public:
  Message(std::string_view bytes, const std::string& name) : rest_(bytes), name_(name) {}

  bool next(Field& field) {
    if (rest_.empty()) return false;
    const std::uint64_t key = varint();
    field = {};
    field.id = key >> 3;
    field.wire_type = key & 7;
    switch (field.wire_type) {
      case 0: field.number = varint(); break;
      case 1: field.number = fixed(8); break;
      case 2: {
        const std::uint64_t size = varint();
        if (size > rest_.size()) broken();
        field.bytes = rest_.substr(0, size);
        rest_.remove_prefix(size);
        break;
      }
      case 5: field.number = fixed(4); break;
      default: broken();
    }
    if (field.id == 0) broken();
    return true;
  }

 private:
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
      const auto byte = static_cast<unsigned char>(rest_.front());
      rest_.remove_prefix(1);
      value |= static_cast<std::uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    broken();
  }

  std::uint64_t fixed(std::size_t bytes) {
    if (rest_.size() < bytes) broken();
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < bytes; ++i)
      value |= static_cast<std::uint64_t>(static_cast<unsigned char>(rest_[i])) << (8 * i);
    rest_.remove_prefix(bytes);
    return value;
  }

  [[noreturn]] void broken() const {
    fail(name_, ": not a SentencePiece model, or a truncated one");
  }

  std::string_view rest_;
  const std::string& name_;
};

Piece parse_piece(std::string_view bytes, std::size_t id, const std::string& name) {
  Piece piece;
  Message message(bytes, name);
  for (Field field; message.next(field);) {
    if (field.id == 1) {
      if (field.bytes.size() > kMaxPieceBytes)
        fail(name, ": piece ", id, ": found ", field.bytes.size(), " bytes; expected at most ",
             kMaxPieceBytes);
      piece.text = field.bytes;
    } else if (field.id == 2) {
      if (!std::isfinite(std::bit_cast<float>(static_cast<std::uint32_t>(field.number))))
        fail(name, ": piece ", id, ": found a score that is not finite");
    } else if (field.id == 3) {
      if (field.number < 1 || field.number > 6)
        fail(name, ": piece ", id, ": found type ", field.number, "; expected 1 to 6");
      piece.type = static_cast<PieceType>(field.number);
    }
  }
  if (piece.text.empty()) fail(name, ": piece ", id, ": found no text");
  return piece;
}

void parse_training(std::string_view bytes, const std::string& name, PieceModel& model) {
  Message message(bytes, name);
  for (Field field; message.next(field);) {
    if (field.id == 3) model.model_type = field.number;
    if (field.id == 24) model.whitespace_as_suffix = field.number != 0;
    if (field.id == 35) model.byte_fallback = field.number != 0;
    if (field.id == 44) model.unknown_surface = field.bytes;
  }
}

/// Normalisation rules are a 4-byte size, a double-array trie (Darts-clone: 32-bit units) of that
/// size, and the replacements as strings that end in NUL. Follows every path that a text could take
/// through the trie.
void check_rules(std::string_view rules, const std::string& name) {
  const auto broken = [&] { fail(name, ": found broken normalisation rules"); };
  std::uint32_t trie_bytes = 0;
  if (rules.size() <= sizeof trie_bytes) broken();
  std::memcpy(&trie_bytes, rules.data(), sizeof trie_bytes);
  rules.remove_prefix(sizeof trie_bytes);
  if (trie_bytes >= rules.size() || trie_bytes % 4 != 0 || trie_bytes == 0) broken();
  if (rules.back() != '\0') broken();
  std::vector<std::uint32_t> units(trie_bytes / 4);
  std::memcpy(units.data(), rules.data(), trie_bytes);
  const std::size_t replacements = rules.size() - trie_bytes;
  const auto offset = [&](std::size_t i) {
    return std::size_t{units[i] >> 10} << ((units[i] & (1u << 9)) >> 6);
  };

  std::vector<bool> seen(units.size(), false);
  std::vector<std::size_t> states;
  const auto visit = [&](std::size_t state) {
    if ((state | 0xff) >= units.size()) broken();
    if (!seen[state]) states.push_back(state);
    seen[state] = true;
  };
  visit(offset(0));
  while (!states.empty()) {
    const std::size_t state = states.back();
    states.pop_back();
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
      const std::size_t i = state ^ byte;
      if ((units[i] & ((1u << 31) | 0xffu)) != byte) continue;
      const std::size_t next = i ^ offset(i);
      visit(next);
      if ((units[i] >> 8 & 1) != 0 && (units[next] & 0x7fffffffu) >= replacements) broken();
    }
  }
}

void parse_normalizer(std::string_view bytes, const std::string& name, PieceModel& model) {
  Message message(bytes, name);
  for (Field field; message.next(field);) {
    if (field.id == 2 && !field.bytes.empty()) {
      check_rules(field.bytes, name);
      model.normalizes = true;
    }
    if (field.id == 3) model.add_dummy_prefix = field.number != 0;
    if (field.id == 4) model.remove_extra_whitespaces = field.number != 0;
    if (field.id == 5) model.escape_whitespaces = field.number != 0;
  }
}

}  // namespace

PieceModel parse_piece_model(std::string_view bytes, const std::string& name) {
  if (bytes.empty()) fail(name, ": found an empty file; expected a SentencePiece model");
  PieceModel model;
  Message message(bytes, name);
  for (Field field; message.next(field);) {
    if (field.id == 1) {
      if (model.pieces.size() == kMaxPieces)
        fail(name, ": found more than ", kMaxPieces, " pieces");
      model.pieces.push_back(parse_piece(field.bytes, model.pieces.size(), name));
    }
    if (field.id == 2) parse_training(field.bytes, name, model);
    if (field.id == 3) parse_normalizer(field.bytes, name, model);
    if (field.id == 5) {
      PieceModel back;
      parse_normalizer(field.bytes, name, back);
      // Such rules rewrite the whole text, so that text could not be streamed.
      if (back.normalizes) fail(name, ": found rules that rewrite decoded text; expected none");
    }
  }
  if (model.pieces.empty()) fail(name, ": not a SentencePiece model: found no pieces");
  return model;
}

}  // namespace samba
