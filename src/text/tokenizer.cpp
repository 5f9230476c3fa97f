#include "text/tokenizer.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "text/encoder.h"
#include "text/hf_tokenizer.h"
#include "text/llama2c_tokenizer.h"
#include "text/sentencepiece_model.h"
#include "text/tokenizer_config.h"

namespace samba {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxBytes = std::size_t{64} << 20;
constexpr const char* kSentencePiece = "tokenizer.model";
constexpr const char* kHuggingFace = "tokenizer.json";

/// GPT-2's vocabulary and what lies beside it.
struct Pair {
  const char* vocabulary;
  const char* merges;
};
constexpr Pair kPairs[] = {{"encoder.json", "vocab.bpe"}, {"vocab.json", "merges.txt"}};

const Pair* pair_of(const std::string& name) {
  for (const Pair& pair : kPairs)
    if (name == pair.vocabulary) return &pair;
  return nullptr;
}

TokenizerFile read_file(const fs::path& path, const std::string& name) {
  std::string bytes = read_text(path.string(), kMaxBytes);
  if (path.extension() == ".bin") bytes = sentencepiece_of_llama2c(bytes, path.string());
  return {name, path.string(), std::move(bytes)};
}

/// The name under which a model folder keeps a file of this path.
std::string folder_name(const fs::path& path) {
  std::string name = path.filename().string();
  if (pair_of(name) != nullptr) return name;
  return path.extension() == ".json" ? kHuggingFace : kSentencePiece;
}

std::vector<TokenizerFile> read_files(const std::string& given) {
  const fs::path path = is_folder(given) ? find_tokenizer(given) : given;
  if (path.empty())
    fail(given,
         ": found no tokenizer; expected tokenizer.model, tokenizer.json, or encoder.json "
         "with vocab.bpe");
  const std::string name = folder_name(path);
  std::vector<TokenizerFile> files{read_file(path, name)};
  if (const Pair* pair = pair_of(name))
    files.push_back(read_file(path.parent_path() / pair->merges, pair->merges));
  // The program that it comes from begins every prompt with the mark.
  if (path.extension() == ".bin")
    files.push_back({kTokenizerConfig, path.string(), R"({"add_bos_token": true})"});
  // Beside a tokenizer under a name of its own they could belong to another.
  if (path.filename() == name)
    for (const char* other : {kTokenizerConfig, kChatTemplate})
      if (const fs::path beside = path.parent_path() / other; exists(beside.string()))
        files.push_back(read_file(beside, other));
  return files;
}

const TokenizerFile* find(const std::vector<TokenizerFile>& files, const std::string& name) {
  const auto found = std::find_if(files.begin(), files.end(),
                                  [&](const TokenizerFile& file) { return file.name == name; });
  return found == files.end() ? nullptr : &*found;
}

std::unique_ptr<TokenModel> make_model(const std::vector<TokenizerFile>& files) {
  const TokenizerFile& first = files.front();
  TokenizerConfig config;
  if (const TokenizerFile* file = find(files, kTokenizerConfig))
    config = parse_tokenizer_config(file->bytes, file->place);
  if (first.name == kHuggingFace) return hf_tokenizer(first, config);
  if (const Pair* pair = pair_of(first.name)) {
    const TokenizerFile* merges = find(files, pair->merges);
    if (merges == nullptr)
      fail(first.place, ": found a vocabulary alone; expected ", pair->merges, " beside it");
    return gpt2_tokenizer(first, *merges, config);
  }
  return sentencepiece_model(first, config);
}

}  // namespace

std::string find_tokenizer(const std::string& folder) {
  if (folder.empty()) return "";
  const fs::path root(folder);
  for (const char* name : {kSentencePiece, kHuggingFace})
    if (exists((root / name).string())) return (root / name).string();
  for (const Pair& pair : kPairs)
    if (exists((root / pair.vocabulary).string()) && exists((root / pair.merges).string()))
      return (root / pair.vocabulary).string();
  std::string llama2c;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(root, error)) {
    const std::string name = entry.path().filename().string();
    const std::string path = entry.path().string();
    if (name.starts_with("tok") && name.ends_with(".bin") && (llama2c.empty() || path < llama2c))
      llama2c = path;
  }
  return llama2c;
}

struct Tokenizer::State {
  std::string name;
  std::string hash;
  std::vector<TokenizerFile> files;
  std::unique_ptr<const TokenModel> model;
};

Tokenizer::Tokenizer(const std::string& path) {
  load(read_files(path), path);
}

Tokenizer Tokenizer::from_bytes(std::string bytes, const std::string& name) {
  if (bytes.size() > kMaxBytes)
    fail(name, ": found ", bytes.size(), " bytes; expected at most ", kMaxBytes);
  Tokenizer tokenizer;
  tokenizer.load({{folder_name(name), name, std::move(bytes)}}, name);
  return tokenizer;
}

void Tokenizer::load(std::vector<TokenizerFile> files, const std::string& name) {
  auto state = std::make_shared<State>();
  state->name = name;
  state->model = make_model(files);
  std::string decisive = files.front().bytes;
  if (const Pair* pair = pair_of(files.front().name)) decisive += find(files, pair->merges)->bytes;
  state->hash = hex(fnv1a(decisive));
  state->files = std::move(files);
  state_ = std::move(state);
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> ids;
  model().encode(text, nullptr, ids);
  return ids;
}

std::vector<std::int32_t> Tokenizer::prompt(std::string_view text) const {
  std::vector<std::int32_t> ids;
  if (model().begins_with_bos()) ids.push_back(bos());
  model().encode(text, nullptr, ids);
  if (ids.empty()) ids.push_back(eos() >= 0 ? eos() : bos());
  return ids;
}

std::vector<std::int32_t> Tokenizer::encode_marked(std::string_view text) const {
  std::vector<std::int32_t> ids;
  model().encode_marked(text, ids);
  return ids;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  StreamingDecoder decoder(*this);
  std::string text;
  for (const std::int32_t id : ids) text += decoder.push(id);
  return text + decoder.flush();
}

std::string_view Tokenizer::token(std::int32_t id) const {
  if (id < 0 || id >= vocabulary())
    fail(state_->name, ": found id ", id, "; expected 0 to ", vocabulary() - 1);
  return model().token(id);
}

const std::string& Tokenizer::hash() const {
  return state_->hash;
}
const std::vector<TokenizerFile>& Tokenizer::files() const {
  return state_->files;
}
const std::string& Tokenizer::name() const {
  return state_->name;
}
const TokenModel& Tokenizer::model() const {
  return *state_->model;
}

void Tokenizer::write(const std::string& folder) const {
  for (const TokenizerFile& file : files())
    write_text((fs::path(folder) / file.name).string(), file.bytes);
}

StreamingDecoder::StreamingDecoder(Tokenizer tokenizer)
    : tokenizer_(std::move(tokenizer)), decoder_(tokenizer_.model().decoder()) {}

std::string StreamingDecoder::push(std::int32_t id) {
  tokenizer_.token(id);  // throws on an id outside the vocabulary
  return decoder_->push(id);
}

std::string StreamingDecoder::flush() {
  return decoder_->flush();
}

Encoder::Encoder(Tokenizer tokenizer) : tokenizer_(std::move(tokenizer)) {
  if (tokenizer_.model().cuts()) words_.emplace();
}

void Encoder::encode(std::string_view text, std::vector<std::int32_t>& ids) {
  tokenizer_.model().encode(text, words_ ? &*words_ : nullptr, ids);
}

}  // namespace samba
