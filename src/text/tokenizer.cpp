#include "text/tokenizer.h"

#include <sentencepiece_processor.h>

#include <utility>

#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "core/utf8.h"
#include "text/sentencepiece_status.h"

namespace samba {
namespace {

constexpr std::size_t kMaxBytes = std::size_t{64} << 20;
constexpr std::string_view kSpace = "\u2581";

int byte_of(const std::string& piece) {
  return static_cast<int>(std::stoul(piece.substr(3, 2), nullptr, 16));
}

/// Bytes of a character that begins with this one; 1 where none does.
std::size_t promised_length(char first) {
  const auto byte = static_cast<unsigned char>(first);
  return byte < 0xc2 || byte > 0xf4 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

}  // namespace

struct Tokenizer::State {
  std::string name;
  std::string bytes;
  std::string hash;
  PieceModel model;
  sentencepiece::SentencePieceProcessor processor;
  std::int32_t bos, eos, unknown, pad;
};

Tokenizer::Tokenizer(const std::string& path)
    : Tokenizer(from_bytes(read_text(path, kMaxBytes), path)) {}

Tokenizer Tokenizer::from_bytes(std::string bytes, const std::string& name) {
  if (bytes.size() > kMaxBytes)
    fail(name, ": found ", bytes.size(), " bytes; expected at most ", kMaxBytes);
  auto state = std::make_shared<State>();
  state->model = parse_piece_model(bytes, name);
  state->name = name;
  state->hash = hex(fnv1a(bytes));
  state->bytes = std::move(bytes);
  silence_sentencepiece();
  auto& processor = state->processor;
  try {
    const auto status = processor.LoadFromSerializedProto(state->bytes);
    if (!status.ok()) fail(name, ": cannot load the model: ", reason(status));
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    fail(name, ": cannot load the model: ", error.what());
  }
  if (static_cast<std::size_t>(processor.GetPieceSize()) != state->model.pieces.size())
    fail(name, ": SentencePiece reads ", processor.GetPieceSize(), " pieces; expected ",
         state->model.pieces.size());
  state->bos = processor.bos_id();
  state->eos = processor.eos_id();
  state->unknown = processor.unk_id();
  state->pad = processor.pad_id();
  Tokenizer tokenizer;
  tokenizer.state_ = std::move(state);
  return tokenizer;
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> ids;
  const auto status = state_->processor.Encode(text, &ids);
  if (!status.ok()) fail(state_->name, ": cannot encode: ", reason(status));
  return ids;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  StreamingDecoder decoder(*this);
  std::string text;
  for (const std::int32_t id : ids) text += decoder.push(id);
  return text + decoder.flush();
}

const Piece& Tokenizer::piece(std::int32_t id) const {
  if (id < 0 || id >= vocabulary())
    fail(state_->name, ": found id ", id, "; expected 0 to ", vocabulary() - 1);
  return state_->model.pieces[static_cast<std::size_t>(id)];
}

std::int32_t Tokenizer::vocabulary() const {
  return static_cast<std::int32_t>(state_->model.pieces.size());
}
std::int32_t Tokenizer::bos() const {
  return state_->bos;
}
std::int32_t Tokenizer::eos() const {
  return state_->eos;
}
std::int32_t Tokenizer::unknown() const {
  return state_->unknown;
}
std::int32_t Tokenizer::pad() const {
  return state_->pad;
}
const std::string& Tokenizer::hash() const {
  return state_->hash;
}
const std::string& Tokenizer::bytes() const {
  return state_->bytes;
}
const std::string& Tokenizer::name() const {
  return state_->name;
}
const PieceModel& Tokenizer::model() const {
  return state_->model;
}

std::string StreamingDecoder::push(std::int32_t id) {
  const Piece& piece = tokenizer_.piece(id);
  const PieceModel& model = tokenizer_.model();
  if (piece.type == PieceType::byte) {
    bytes_ += static_cast<char>(byte_of(piece.text));
    return settle_bytes(false);
  }
  std::string text = settle_bytes(true);
  if (prefix_dropped_ || began_) at_start_ = false;
  prefix_dropped_ = false;
  if (piece.type == PieceType::control) return text;
  if (piece.type == PieceType::unknown) {
    text += model.unknown_surface;
  } else {
    std::string_view rest = piece.text;
    if (at_start_ && rest.starts_with(kSpace) &&
        (model.add_dummy_prefix || model.remove_extra_whitespaces)) {
      rest.remove_prefix(kSpace.size());
      // A model that removes extra spaces has none to keep before the first word.
      prefix_dropped_ = !model.remove_extra_whitespaces;
    }
    for (std::size_t at; (at = rest.find(kSpace)) != rest.npos;) {
      text.append(rest.substr(0, at)) += ' ';
      rest.remove_prefix(at + kSpace.size());
    }
    text += rest;
  }
  began_ |= !text.empty();
  return text;
}

std::string StreamingDecoder::flush() {
  std::string text = settle_bytes(true);
  began_ = prefix_dropped_ = false;
  at_start_ = true;
  return text;
}

std::string StreamingDecoder::settle_bytes(bool finish) {
  std::string text;
  while (!bytes_.empty()) {
    const std::size_t length = utf8_length(bytes_);
    if (length == 0 && !finish && bytes_.size() < promised_length(bytes_.front())) break;
    if (length > 0)
      text.append(bytes_, 0, length);
    else
      append_utf8(text, kReplacement);
    bytes_.erase(0, std::max<std::size_t>(length, 1));
  }
  began_ |= !text.empty();
  return text;
}

}  // namespace samba
