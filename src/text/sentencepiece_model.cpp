#include "text/sentencepiece_model.h"

#include <sentencepiece_processor.h>

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "text/added_tokens.h"
#include "text/character_buffer.h"
#include "text/piece_model.h"
#include "text/sentencepiece_status.h"

namespace samba {
namespace {

constexpr std::string_view kSpace = "\u2581";
constexpr std::uint64_t kBpe = 2;

char byte_of(const std::string& piece) {
  return static_cast<char>(std::stoul(piece.substr(3, 2), nullptr, 16));
}

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

class PieceDecoder final : public TokenDecoder {
 public:
  explicit PieceDecoder(const PieceModel& model) : model_(model) {}

  std::string push(std::int32_t id) override {
    const Piece& piece = model_.pieces[static_cast<std::size_t>(id)];
    if (piece.type == PieceType::byte) {
      const char byte = byte_of(piece.text);
      bytes_.add({&byte, 1});
      return settle_bytes(false);
    }
    std::string text = settle_bytes(true);
    if (prefix_dropped_ || began_) at_start_ = false;
    prefix_dropped_ = false;
    if (piece.type == PieceType::control) return text;
    if (piece.type == PieceType::unknown)
      text += model_.unknown_surface;
    else
      append_surface(piece.text, text);
    began_ |= !text.empty();
    return text;
  }

  std::string flush() override {
    std::string text = settle_bytes(true);
    began_ = prefix_dropped_ = false;
    at_start_ = true;
    return text;
  }

 private:
  const PieceModel& model_;
  CharacterBuffer bytes_{true};  ///< of byte pieces, not yet a character
  bool began_ = false;           ///< some text was returned
  bool at_start_ = true;         ///< a space may still be the dummy prefix
  bool prefix_dropped_ = false;

  void append_surface(std::string_view piece, std::string& text) {
    if (at_start_ && piece.starts_with(kSpace) &&
        (model_.add_dummy_prefix || model_.remove_extra_whitespaces)) {
      piece.remove_prefix(kSpace.size());
      // A model that removes extra spaces has none to keep before the first word.
      prefix_dropped_ = !model_.remove_extra_whitespaces;
    }
    for (std::size_t at; (at = piece.find(kSpace)) != piece.npos;) {
      text.append(piece.substr(0, at)) += ' ';
      piece.remove_prefix(at + kSpace.size());
    }
    text += piece;
  }

  std::string settle_bytes(bool end) {
    std::string text = bytes_.take(end);
    began_ |= !text.empty();
    return text;
  }
};

class SentencePieceModel final : public TokenModel {
 public:
  SentencePieceModel(const std::string& bytes, const std::string& name,
                     const TokenizerConfig& config)
      : name_(name),
        model_(parse_piece_model(bytes, name)),
        cuts_(can_cut(model_)),
        begins_with_bos_(config.add_bos.value_or(false)) {
    silence_sentencepiece();
    try {
      const auto status = processor_.LoadFromSerializedProto(bytes);
      if (!status.ok()) fail(name, ": cannot load the model: ", reason(status));
    } catch (const Error&) {
      throw;
    } catch (const std::exception& error) {
      fail(name, ": cannot load the model: ", error.what());
    }
    if (static_cast<std::size_t>(processor_.GetPieceSize()) != model_.pieces.size())
      fail(name, ": SentencePiece reads ", processor_.GetPieceSize(), " pieces; expected ",
           model_.pieces.size());
    std::vector<AddedToken> controls;
    for (std::size_t id = 0; id < model_.pieces.size(); ++id)
      if (model_.pieces[id].type == PieceType::control)
        controls.push_back(
            {.content = model_.pieces[id].text, .id = static_cast<std::int32_t>(id)});
    controls_ = AddedTokens(std::move(controls));
    if (!cuts_) return;
    encode_all("\n", space_);
    line_break_ = space_.back();
    space_.pop_back();
  }

  std::int32_t vocabulary() const override {
    return static_cast<std::int32_t>(model_.pieces.size());
  }
  Marks marks() const override {
    return {processor_.bos_id(), processor_.eos_id(), processor_.unk_id(), processor_.pad_id()};
  }
  bool begins_with_bos() const override { return begins_with_bos_ && processor_.bos_id() >= 0; }
  std::string_view token(std::int32_t id) const override {
    return model_.pieces[static_cast<std::size_t>(id)].text;
  }
  bool cuts() const override { return cuts_; }
  std::unique_ptr<TokenDecoder> decoder() const override {
    return std::make_unique<PieceDecoder>(model_);
  }

  void encode(std::string_view text, WordTable* words,
              std::vector<std::int32_t>& ids) const override {
    if (text.empty()) return;
    if (words == nullptr || !cuts_)
      encode_all(text, ids);
    else
      encode_words(text, *words, ids);
  }

  void encode_marked(std::string_view text, std::vector<std::int32_t>& ids) const override {
    controls_.split(text, [&](std::int32_t control, std::string_view part) {
      if (control >= 0)
        ids.push_back(control);
      else
        encode_all(part, ids);
    });
  }

 private:
  std::string name_;
  PieceModel model_;
  AddedTokens controls_;  ///< control pieces, which plain text never becomes
  sentencepiece::SentencePieceProcessor processor_;
  bool cuts_;
  bool begins_with_bos_;
  std::vector<std::int32_t> space_;  ///< the ids of a space alone
  std::int32_t line_break_ = -1;

  void encode_all(std::string_view text, std::vector<std::int32_t>& ids) const {
    std::vector<std::int32_t> found;
    const auto status = processor_.Encode(text, &found);
    if (!status.ok()) fail(name_, ": cannot encode: ", reason(status));
    ids.insert(ids.end(), found.begin(), found.end());
  }

  void encode_words(std::string_view text, WordTable& words, std::vector<std::int32_t>& ids) const {
    const auto make = [this](std::string_view word, std::vector<std::int32_t>& out) {
      encode_all(word, out);
    };
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
        if (i > begin + 1)
          words.append(text.substr(begin, i - begin), space_.size() + 1, ids, make);
      } else if (i > begin) {
        words.append(text.substr(begin, i - begin), 0, ids, make);
      } else {
        ids.insert(ids.end(), space_.begin(), space_.end());
      }
      if (line_break) ids.push_back(line_break_);
      after_break = line_break;
      begin = line_break ? i : i + 1;
    }
  }
};

}  // namespace

std::unique_ptr<TokenModel> sentencepiece_model(const TokenizerFile& file,
                                                const TokenizerConfig& config) {
  return std::make_unique<SentencePieceModel>(file.bytes, file.place, config);
}

}  // namespace samba
