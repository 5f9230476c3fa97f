#include "text/llama2c_tokenizer.h"

#include <cstdint>

#include "core/error.h"
#include "text/piece_model.h"

namespace samba {
namespace {

constexpr std::uint32_t kLengthBytes = 4, kFirstByte = 3, kBytes = 256;

/// Writes fields of a protocol buffer.
class Message {
 public:
  void number(std::uint32_t field, std::uint64_t value) {
    varint(field << 3);
    varint(value);
  }
  void real(std::uint32_t field, float value) {
    varint(field << 3 | 5);
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  void text(std::uint32_t field, std::string_view value) {
    varint(field << 3 | 2);
    varint(value.size());
    bytes_ += value;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  void varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>(value | 0x80);
    bytes_ += static_cast<char>(value);
  }
  std::string bytes_;
};

PieceType type_of(std::uint32_t id) {
  if (id == 0) return PieceType::unknown;
  if (id < kFirstByte) return PieceType::control;
  return id < kFirstByte + kBytes ? PieceType::byte : PieceType::normal;
}

std::string with_marked_spaces(std::string_view text) {
  std::string marked;
  for (const char c : text) marked += c == ' ' ? std::string("\u2581") : std::string(1, c);
  return marked;
}

}  // namespace

std::string sentencepiece_of_llama2c(std::string_view bytes, const std::string& name) {
  const auto take = [&](auto& value) {
    if (bytes.size() < sizeof(value))
      fail(name, ": expected a tokenizer of llama2.c, found a file that ends inside of a piece");
    bytes.copy(reinterpret_cast<char*>(&value), sizeof(value));
    bytes.remove_prefix(sizeof(value));
  };
  std::int32_t longest = 0;
  take(longest);
  static_assert(sizeof(longest) == kLengthBytes);
  Message model;
  std::uint32_t id = 0;
  for (; !bytes.empty(); ++id) {
    float score = 0;
    std::int32_t length = 0;
    take(score);
    take(length);
    if (length < 0 || length > longest || static_cast<std::size_t>(length) > bytes.size())
      fail(name, ": piece ", id, ": expected 0 to ", longest, " bytes, found ", length);
    const char* marks[] = {"<unk>", "<s>", "</s>"};
    const std::string text =
        id < kFirstByte ? marks[id]
                        : with_marked_spaces(bytes.substr(0, static_cast<std::size_t>(length)));
    bytes.remove_prefix(static_cast<std::size_t>(length));
    Message piece;
    piece.text(1, text);
    piece.real(2, score);
    piece.number(3, static_cast<std::uint64_t>(type_of(id)));
    model.text(1, piece.bytes());
  }
  if (id <= kFirstByte + kBytes)
    fail(name, ": expected more than ", kFirstByte + kBytes, " pieces, found ", id);
  Message trainer;
  trainer.number(3, 2);   // BPE
  trainer.number(35, 1);  // byte fallback
  model.text(2, trainer.bytes());
  Message normalizer;
  normalizer.text(1, "identity");
  normalizer.number(3, 1);  // a space before the text
  normalizer.number(4, 0);  // spaces stay as they are
  normalizer.number(5, 1);
  model.text(3, normalizer.bytes());
  return model.bytes();
}

}  // namespace samba
