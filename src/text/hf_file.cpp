#include "text/hf_file.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "core/error.h"

namespace samba {
namespace {

constexpr std::int32_t kMostId = (1 << 20) - 1;
constexpr std::size_t kLongestToken = 4096;

/// The largest id that a file may name. Ids leave few holes and a token takes several bytes, so a
/// small file cannot ask for a large table.
std::int32_t most_id(const TokenizerFile& file) {
  return static_cast<std::int32_t>(std::min<std::size_t>(kMostId, file.bytes.size()));
}

/// End and begin marks of files that name none.
constexpr const char* kEndMarks[] = {"<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>"};
constexpr const char* kBeginMarks[] = {"<s>", "<|begin_of_text|>", "<bos>"};

/// Tokens by their text while a file is read.
class Vocabulary {
 public:
  /// `node`: the object of tokens; `most`: the largest id.
  Vocabulary(const JsonNode& node, std::int32_t most) : place_(node.place()), most_(most) {
    for (const auto [token, id] : node.object()) add(token, JsonNode(id, entry(token)));
    if (ids_.empty()) fail(place_, ": found no tokens; expected some");
  }

  std::int32_t find(std::string_view token) const {
    const auto found = ids_.find(token);
    return found == ids_.end() ? -1 : found->second;
  }
  std::vector<std::string> take_tokens() { return std::move(tokens_); }
  const std::string& place() const { return place_; }

 private:
  std::string place_;
  std::int32_t most_;
  std::unordered_map<std::string_view, std::int32_t> ids_;
  std::vector<std::string> tokens_;

  std::string entry(std::string_view token) const { return place_ + "[" + quote(token) + "]"; }

  void add(std::string_view token, const JsonNode& node) {
    const std::int32_t id = node.number(most_);
    if (token.size() > kLongestToken)
      fail(place_, ": found a token of ", token.size(), " bytes; expected at most ", kLongestToken);
    const auto at = static_cast<std::size_t>(id);
    if (at >= tokens_.size()) tokens_.resize(at + 1);
    if (!tokens_[at].empty())
      fail(node.place(), ": found id ", id, ", that of ", quote(tokens_[at]), "; expected another");
    if (!ids_.emplace(token, id).second) fail(node.place(), ": found twice; expected once");
    tokens_[at] = token;
  }
};

/// A merge of two tokens by their texts; `place` says where it stands.
Merge merge_of(const Vocabulary& vocabulary, std::string_view left, std::string_view right,
               const std::string& place) {
  const auto known = [&](std::string_view token) {
    const std::int32_t id = token.empty() ? -1 : vocabulary.find(token);
    if (id < 0) fail(place, ": found ", quote(token), "; expected a token of the vocabulary");
    return id;
  };
  return {known(left), known(right), known(std::string(left).append(right))};
}

/// Two tokens with a space between them.
Merge merge_of(const Vocabulary& vocabulary, std::string_view text, const std::string& place) {
  const std::size_t space = text.find(' ');
  if (space == text.npos || text.find(' ', space + 1) != text.npos)
    fail(place, ": found ", quote(text), "; expected two tokens with a space between them");
  return merge_of(vocabulary, text.substr(0, space), text.substr(space + 1), place);
}

std::vector<Merge> parse_merges(const JsonNode& node, const Vocabulary& vocabulary) {
  std::vector<Merge> merges;
  const simdjson::dom::array list = node.list();
  std::size_t index = 0;
  for (const simdjson::dom::element element : list) {
    const JsonNode merge(element, text_of(node.place(), '[', index++, ']'));
    if (merge.is_string()) {
      const std::string_view text = merge.text();
      if (index == 1 && text.starts_with("#version")) continue;
      merges.push_back(merge_of(vocabulary, text, merge.place()));
      continue;
    }
    const std::vector<JsonNode> pair = merge.elements();
    if (pair.size() != 2)
      fail(merge.place(), ": found ", pair.size(), " elements; expected two tokens");
    merges.push_back(merge_of(vocabulary, pair[0].text(), pair[1].text(), merge.place()));
  }
  return merges;
}

void refuse_affix(const JsonNode& model, const char* key) {
  const std::string affix = model.text(key, "");
  if (!affix.empty()) model.at(key).refuse(affix, "none");
}

/// Every byte that UTF-8 uses must be a token, so that no text is lost.
void expect_bytes(const std::vector<bool>& found, const std::string& place) {
  for (std::size_t byte = 0; byte < 0xF5; ++byte)
    if (!found[byte] && byte != 0xC0 && byte != 0xC1)
      fail(place, ": found no token for the byte ", byte, "; expected one for each");
}

/// Turns the tokens of a byte-level model into the bytes that they stand for.
void spell(std::vector<std::string>& tokens, bool unknown, const std::string& place) {
  std::vector<bool> found(256, unknown);
  for (std::string& token : tokens) {
    std::string bytes;
    // Others, such as special tokens with spaces, cannot come from merging.
    if (!spelled_bytes(token, bytes)) bytes.clear();
    token = std::move(bytes);
    if (token.size() == 1) found[static_cast<unsigned char>(token[0])] = true;
  }
  expect_bytes(found, place);
}

void parse_model(const JsonNode& node, std::int32_t most, HfFile& file) {
  if (const auto type = node.find("type"); type && type->text() != "BPE")
    type->refuse(type->text(), "BPE");
  refuse_affix(node, "continuing_subword_prefix");
  refuse_affix(node, "end_of_word_suffix");
  if (const auto dropout = node.find("dropout"))
    fail(dropout->place(), ": found a share of merges to drop at random; expected null");
  BpeModel& model = file.model;
  model.bytes = file.pre_tokenizer.bytes();
  model.byte_fallback = node.boolean("byte_fallback", false) && !model.bytes;
  model.fuse_unknown = node.boolean("fuse_unk", false);
  model.ignore_merges = node.boolean("ignore_merges", false);
  Vocabulary vocabulary(node.at("vocab"), most);
  model.merges = parse_merges(node.at("merges"), vocabulary);
  if (const auto unknown = node.find("unk_token")) {
    model.unknown = vocabulary.find(unknown->text());
    if (model.unknown < 0) unknown->refuse(unknown->text(), "a token of the vocabulary");
  }
  file.tokens = vocabulary.take_tokens();
  model.tokens = file.tokens;
  if (model.bytes) spell(model.tokens, model.unknown >= 0, vocabulary.place());
  if (!model.byte_fallback) return;
  std::vector<bool> found(256, false);
  for (const std::string& token : file.tokens)
    if (const int byte = fallback_byte(token); byte >= 0)
      found[static_cast<std::size_t>(byte)] = true;
  expect_bytes(found, vocabulary.place());
}

std::int32_t find_token(const HfFile& file, std::string_view token) {
  const auto found = std::find(file.tokens.begin(), file.tokens.end(), token);
  return found == file.tokens.end() || token.empty()
             ? -1
             : static_cast<std::int32_t>(found - file.tokens.begin());
}

void parse_added(const JsonNode& node, std::int32_t most, HfFile& file) {
  std::unordered_map<std::string, std::int32_t> known;
  for (std::size_t id = 0; id < file.tokens.size(); ++id)
    if (!file.tokens[id].empty()) known.emplace(file.tokens[id], static_cast<std::int32_t>(id));
  for (const JsonNode& entry : node.elements()) {
    AddedToken token;
    token.content = entry.at("content").text();
    const JsonNode id = entry.at("id");
    token.id = id.number(most);
    token.special = entry.boolean("special", false);
    token.single_word = entry.boolean("single_word", false);
    token.lstrip = entry.boolean("lstrip", false);
    token.rstrip = entry.boolean("rstrip", false);
    token.normalized = entry.boolean("normalized", !token.special);
    if (token.content.empty() || token.content.size() > kLongestToken)
      fail(entry.place(), ".content: found ", token.content.size(), " bytes; expected 1 to ",
           kLongestToken);
    const auto at = static_cast<std::size_t>(token.id);
    if (at >= file.tokens.size()) file.tokens.resize(at + 1);
    const auto [same, added] = known.emplace(token.content, token.id);
    if (!added && same->second != token.id)
      fail(id.place(), ": found ", token.id, " for ", quote(token.content), "; expected ",
           same->second, ", its id elsewhere in the file");
    if (added && !file.tokens[at].empty())
      fail(id.place(), ": found ", token.id, ", that of ", quote(file.tokens[at]),
           "; expected another");
    file.tokens[at] = token.content;
    file.added.push_back(std::move(token));
  }
}

/// The special token that a post-processor puts first; "" where none does.
std::string first_token(const JsonNode& node) {
  const JsonNode type_node = node.at("type");
  const std::string_view type = type_node.text();
  if (type == "ByteLevel") return "";
  if (type == "Sequence") {
    for (const JsonNode& step : node.at("processors").elements())
      if (std::string token = first_token(step); !token.empty()) return token;
    return "";
  }
  if (type != "TemplateProcessing")
    type_node.refuse(type, "ByteLevel, TemplateProcessing or Sequence");
  const std::vector<JsonNode> pieces = node.at("single").elements();
  if (pieces.empty()) return "";
  const auto special = pieces.front().find("SpecialToken");
  return special ? std::string(special->at("id").text()) : "";
}

/// Marks by the configuration, else by well-known names.
void choose_marks(const TokenizerConfig& config, const std::string& first, HfFile& file) {
  const auto named = [&](const std::optional<std::string>& token, const char* key) {
    if (!token) return -1;
    const std::int32_t id = find_token(file, *token);
    if (id < 0)
      fail(config.place, ": ", key, ": found ", quote(*token),
           "; expected a token of the tokenizer");
    return id;
  };
  const auto any_of = [&](const auto& names) {
    for (const char* name : names)
      if (const std::int32_t id = find_token(file, name); id >= 0) return id;
    return -1;
  };
  Marks& marks = file.marks;
  marks.bos = named(config.bos, "bos_token");
  if (!config.bos) marks.bos = first.empty() ? any_of(kBeginMarks) : find_token(file, first);
  marks.eos = config.eos ? named(config.eos, "eos_token") : any_of(kEndMarks);
  marks.pad = named(config.pad, "pad_token");
  marks.unknown = file.model.unknown;
  file.begins_with_bos = config.add_bos.value_or(!first.empty());
  if (file.begins_with_bos && marks.bos < 0)
    fail(config.place, ": add_bos_token: found true without a bos_token; expected one");
}

}  // namespace

HfFile parse_hf_file(const TokenizerFile& given, const TokenizerConfig& config) {
  const JsonDocument document(given.bytes, given.place);
  const JsonNode root = document.root();
  HfFile file;
  if (const auto node = root.find("normalizer")) file.normalizer = Normalizer(*node);
  if (const auto node = root.find("pre_tokenizer")) file.pre_tokenizer = PreTokenizer(*node);
  file.decode = parse_decoder(root.at("decoder"));
  parse_model(root.at("model"), most_id(given), file);
  if (const auto node = root.find("added_tokens")) parse_added(*node, most_id(given), file);
  std::string first;
  if (const auto node = root.find("post_processor")) {
    first = first_token(*node);
    if (!first.empty() && find_token(file, first) < 0)
      node->refuse(first, "a token of the tokenizer");
  }
  choose_marks(config, first, file);
  return file;
}

HfFile parse_gpt2_files(const TokenizerFile& vocabulary_file, const TokenizerFile& merges_file,
                        const TokenizerConfig& config) {
  const JsonDocument document(vocabulary_file.bytes, vocabulary_file.place);
  Vocabulary vocabulary(document.root(), most_id(vocabulary_file));
  HfFile file;
  file.pre_tokenizer = PreTokenizer(WordPattern::gpt2);
  file.model.bytes = true;
  std::string_view rest = merges_file.bytes;
  for (std::size_t number = 1; !rest.empty(); ++number) {
    const std::size_t end = std::min(rest.find('\n'), rest.size());
    std::string_view line = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || (number == 1 && line.starts_with("#version"))) continue;
    file.model.merges.push_back(
        merge_of(vocabulary, line, text_of(merges_file.place, ":", number)));
  }
  file.tokens = vocabulary.take_tokens();
  file.model.tokens = file.tokens;
  spell(file.model.tokens, false, vocabulary_file.place);
  choose_marks(config, "", file);
  if (file.marks.bos < 0) file.marks.bos = file.marks.eos;
  return file;
}

}  // namespace samba
