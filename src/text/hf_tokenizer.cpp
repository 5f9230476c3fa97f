#include "text/hf_tokenizer.h"

#include <utility>

#include "text/hf_file.h"

namespace samba {
namespace {

class HfTokenizer final : public TokenModel {
 public:
  explicit HfTokenizer(HfFile file)
      : normalizer_(std::move(file.normalizer)),
        pre_tokenizer_(std::move(file.pre_tokenizer)),
        rules_(std::move(file.decode)),
        tokens_(std::move(file.tokens)),
        marks_(file.marks),
        begins_with_bos_(file.begins_with_bos),
        bpe_(std::move(file.model)) {
    for (const std::string& token : tokens_) surfaces_.push_back(surface_of(token, rules_));
    for (std::size_t id = 0; id < tokens_.size(); ++id)
      if (tokens_[id].empty()) surfaces_[id].kind = Surface::Kind::hidden;
    std::vector<AddedToken> raw, normalized;
    for (AddedToken& token : file.added) {
      if (token.special) surfaces_[static_cast<std::size_t>(token.id)].kind = Surface::Kind::hidden;
      if (!token.normalized) {
        raw.push_back(std::move(token));
        continue;
      }
      std::string buffers[2];
      token.content = std::string(normalizer_.apply(token.content, buffers));
      Surface& surface = surfaces_[static_cast<std::size_t>(token.id)];
      if (!token.special) surface = surface_of(token.content, rules_);
      normalized.push_back(std::move(token));
    }
    raw_ = AddedTokens(std::move(raw));
    normalized_ = AddedTokens(std::move(normalized));
  }

  std::int32_t vocabulary() const override { return static_cast<std::int32_t>(tokens_.size()); }
  Marks marks() const override { return marks_; }
  bool begins_with_bos() const override { return begins_with_bos_; }
  std::string_view token(std::int32_t id) const override {
    return tokens_[static_cast<std::size_t>(id)];
  }
  bool cuts() const override { return !pre_tokenizer_.whole() || bpe_.has_borders(); }
  std::unique_ptr<TokenDecoder> decoder() const override {
    return std::make_unique<HfDecoder>(surfaces_, rules_);
  }

  void encode(std::string_view text, WordTable* words,
              std::vector<std::int32_t>& ids) const override {
    std::string mended;
    if (first_invalid_utf8(text) != text.npos) {
      for (std::size_t at = 0; at < text.size();) append_utf8(mended, next_code_point(text, at));
      text = mended;
    }
    const auto make = [this](std::string_view word, std::vector<std::int32_t>& out) {
      bpe_.encode(word, out);
    };
    const PreTokenizer::Sink word = [&](std::string_view whole) {
      // Merging a long text in pieces takes less memory, and words come again.
      for (std::size_t begin = 0; begin < whole.size();) {
        const std::size_t end = bpe_.has_borders() ? bpe_.border_after(whole, begin) : whole.size();
        const std::string_view part = whole.substr(begin, end - begin);
        if (words != nullptr)
          words->append(part, 0, ids, make);
        else
          bpe_.encode(part, ids);
        begin = end;
      }
    };
    std::string buffers[2];
    bool first = true;  // nothing was found before
    raw_.split(text, [&](std::int32_t token, std::string_view piece) {
      const bool begins = std::exchange(first, false);
      if (token >= 0) return ids.push_back(token);
      bool leads = begins;
      normalized_.split(normalizer_.apply(piece, buffers),
                        [&](std::int32_t found, std::string_view part) {
                          const bool opens = std::exchange(leads, false);
                          if (found >= 0) return ids.push_back(found);
                          pre_tokenizer_.cut(part, opens, word);
                        });
    });
  }

  void encode_marked(std::string_view text, std::vector<std::int32_t>& ids) const override {
    encode(text, nullptr, ids);
  }

 private:
  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  DecodeRules rules_;
  std::vector<std::string> tokens_;
  Marks marks_;
  bool begins_with_bos_;
  Bpe bpe_;
  std::vector<Surface> surfaces_;  ///< by id
  AddedTokens raw_;                ///< found in the text as it is given
  AddedTokens normalized_;         ///< found in normalised text
};

}  // namespace

std::unique_ptr<TokenModel> hf_tokenizer(const TokenizerFile& file, const TokenizerConfig& config) {
  return std::make_unique<HfTokenizer>(parse_hf_file(file, config));
}

std::unique_ptr<TokenModel> gpt2_tokenizer(const TokenizerFile& vocabulary,
                                           const TokenizerFile& merges,
                                           const TokenizerConfig& config) {
  return std::make_unique<HfTokenizer>(parse_gpt2_files(vocabulary, merges, config));
}

}  // namespace samba
