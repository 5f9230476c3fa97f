#include "text/pre_tokenizer.h"

#include <algorithm>

#include "text/unicode.h"

namespace samba {
namespace {

/// How files spell the patterns.
struct Spelling {
  std::string_view text;
  WordPattern pattern;
};
constexpr Spelling kSpellings[] = {
    {R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
     WordPattern::gpt2},
    {R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)",
     WordPattern::gpt2},
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     WordPattern::cl100k},
    {R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)",
     WordPattern::cl100k},
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     WordPattern::qwen2},
};

bool is_break(char32_t code) {
  return code == '\n' || code == '\r';
}

/// Where a run of characters of this class ends, which may be none.
std::size_t run_end(std::string_view text, std::size_t at, CharClass kind) {
  for (;;) {
    const Char c = char_at(text, at);
    if (c.bytes == 0 || c.kind != kind) return at;
    at += c.bytes;
  }
}

/// 's 't 're 've 'm 'll 'd: the length of the one at text[at], which is an apostrophe; 0 where
/// there is none.
std::size_t contraction(std::string_view text, std::size_t at, bool any_case) {
  const auto letter = [&](std::size_t i) {
    const char c = at + i < text.size() ? text[at + i] : '\0';
    return any_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  };
  const char first = letter(1), second = letter(2);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
  if ((first == 'r' && second == 'e') || (first == 'v' && second == 'e') ||
      (first == 'l' && second == 'l'))
    return 3;
  // The long s folds to s where case does not matter.
  if (any_case && text.substr(at + 1).starts_with("\u017f")) return 1 + sizeof("\u017f") - 1;
  return 0;
}

/// \s+(?!\S)|\s+, and where breaks count \s*[\r\n]+ before: the last space goes to the word after.
std::size_t spaces_end(std::string_view text, std::size_t begin, bool breaks) {
  std::size_t at = begin, last = begin, after_break = begin;
  for (;;) {
    const Char c = char_at(text, at);
    if (c.bytes == 0 || c.kind != CharClass::space) break;
    last = at;
    at += c.bytes;
    if (is_break(c.code)) after_break = at;
  }
  if (breaks && after_break > begin) return after_break;
  return at == text.size() || last == begin ? at : last;
}

std::size_t gpt2_end(std::string_view text, std::size_t begin) {
  Char c = char_at(text, begin);
  if (c.code == '\'')
    if (const std::size_t length = contraction(text, begin, false)) return begin + length;
  std::size_t at = begin;
  if (c.code == ' ') {
    const Char next = char_at(text, begin + 1);
    if (next.bytes > 0 && next.kind != CharClass::space) {
      c = next;
      ++at;
    }
  }
  if (c.kind == CharClass::space) return spaces_end(text, begin, false);
  return run_end(text, at + c.bytes, c.kind);
}

std::size_t cl100k_end(std::string_view text, std::size_t begin, int digits) {
  const Char c = char_at(text, begin);
  if (c.code == '\'')
    if (const std::size_t length = contraction(text, begin, true)) return begin + length;
  if (c.kind == CharClass::letter) return run_end(text, begin + c.bytes, CharClass::letter);
  const std::size_t second = begin + c.bytes;
  if (c.kind == CharClass::number) {
    std::size_t at = second;
    for (int i = 1; i < digits; ++i) {
      const Char next = char_at(text, at);
      if (next.bytes == 0 || next.kind != CharClass::number) break;
      at += next.bytes;
    }
    return at;
  }
  const Char next = char_at(text, second);
  if (next.bytes > 0 && next.kind == CharClass::letter && !is_break(c.code))
    return run_end(text, second, CharClass::letter);
  const bool sign_after_space = c.code == ' ' && next.bytes > 0 && next.kind == CharClass::other;
  if (c.kind == CharClass::space && !sign_after_space) return spaces_end(text, begin, true);
  std::size_t at = run_end(text, second, CharClass::other);
  while (at < text.size() && is_break(static_cast<unsigned char>(text[at]))) ++at;
  return at;
}

}  // namespace

std::size_t word_end(WordPattern pattern, std::string_view text, std::size_t begin) {
  switch (pattern) {
    case WordPattern::gpt2: return gpt2_end(text, begin);
    case WordPattern::cl100k: return cl100k_end(text, begin, 3);
    case WordPattern::qwen2: break;
  }
  return cl100k_end(text, begin, 1);
}

PreTokenizer::PreTokenizer(const JsonNode& node) {
  add(node);
}

PreTokenizer::PreTokenizer(WordPattern pattern) : steps_{Words{pattern}}, bytes_(true) {}

bool PreTokenizer::whole() const {
  return std::none_of(steps_.begin(), steps_.end(), [](const Step& step) {
    const auto* spaces = std::get_if<Metaspace>(&step);
    return std::holds_alternative<Words>(step) || std::holds_alternative<Digits>(step) ||
           (spaces != nullptr && spaces->split);
  });
}

void PreTokenizer::add(const JsonNode& node) {
  expect_few_steps(node, steps_.size());
  const JsonNode type_node = node.at("type");
  const std::string_view type = type_node.text();
  if (bytes_) type_node.refuse(type, "nothing behind ByteLevel");
  if (type == "Sequence") {
    for (const JsonNode& step : node.at("pretokenizers").elements()) add(step);
  } else if (type == "ByteLevel") {
    if (node.boolean("add_prefix_space", true)) steps_.emplace_back(PrefixSpace{});
    if (node.boolean("use_regex", true)) steps_.emplace_back(Words{WordPattern::gpt2});
    bytes_ = true;
  } else if (type == "Split") {
    const JsonNode pattern = node.at("pattern");
    const auto regex = pattern.find("Regex");
    if (!regex) fail(pattern.place(), ": found no \"Regex\"; expected a known one");
    const auto* known = std::find_if(std::begin(kSpellings), std::end(kSpellings),
                                     [&](const Spelling& s) { return s.text == regex->text(); });
    if (known == std::end(kSpellings))
      regex->refuse(regex->text(), "the pattern of GPT-2, of cl100k (Llama 3) or of Qwen 2");
    // The patterns leave no text between their matches, so that both ways give the matches.
    const std::string behavior = node.text("behavior", "Isolated");
    const bool invert = node.boolean("invert", false);
    if (!(behavior == "Isolated" && !invert) && !(behavior == "Removed" && invert))
      node.at("behavior").refuse(behavior, "\"Isolated\", or \"Removed\" with \"invert\"");
    steps_.emplace_back(Words{known->pattern});
  } else if (type == "Digits") {
    steps_.emplace_back(Digits{node.boolean("individual_digits", false)});
  } else if (type == "Metaspace") {
    add_metaspace(node);
  } else {
    type_node.refuse(type, "ByteLevel, Split, Digits, Metaspace or Sequence");
  }
}

void PreTokenizer::add_metaspace(const JsonNode& node) {
  using Prepend = Metaspace::Prepend;
  Metaspace step{node.text("replacement", "\u2581"), Prepend::always, node.boolean("split", true)};
  if (step.space.empty() || step.space.size() != utf8_length(step.space))
    node.at("replacement").refuse(step.space, "one character");
  if (const auto scheme = node.find("prepend_scheme")) {
    if (scheme->text() == "never")
      step.prepend = Prepend::never;
    else if (scheme->text() == "first")
      step.prepend = Prepend::first;
    else if (scheme->text() != "always")
      scheme->refuse(scheme->text(), "\"always\", \"first\" or \"never\"");
  } else if (!node.boolean("add_prefix_space", true)) {
    step.prepend = Prepend::never;
  }
  steps_.emplace_back(std::move(step));
}

void PreTokenizer::cut(std::string_view text, bool first, const Sink& sink) const {
  if (!text.empty()) run(0, text, first, sink);
}

void PreTokenizer::run(std::size_t step, std::string_view text, bool first,
                       const Sink& sink) const {
  if (step == steps_.size()) return sink(text);
  if (const auto* words = std::get_if<Words>(&steps_[step])) {
    for (std::size_t begin = 0; begin < text.size();) {
      const std::size_t end = word_end(words->pattern, text, begin);
      run(step + 1, text.substr(begin, end - begin), first && begin == 0, sink);
      begin = end;
    }
  } else if (const auto* digits = std::get_if<Digits>(&steps_[step])) {
    for (std::size_t begin = 0; begin < text.size();) {
      const bool number = char_at(text, begin).kind == CharClass::number;
      std::size_t end = begin;
      do {
        end += char_at(text, end).bytes;
      } while (end < text.size() && !(number && digits->individual) &&
               (char_at(text, end).kind == CharClass::number) == number);
      run(step + 1, text.substr(begin, end - begin), first && begin == 0, sink);
      begin = end;
    }
  } else if (std::holds_alternative<PrefixSpace>(steps_[step])) {
    if (text.front() == ' ') return run(step + 1, text, first, sink);
    run(step + 1, std::string(" ").append(text), first, sink);
  } else {
    run_metaspace(step, text, first, sink);
  }
}

void PreTokenizer::run_metaspace(std::size_t step, std::string_view text, bool first,
                                 const Sink& sink) const {
  const auto& [space, prepend, split] = std::get<Metaspace>(steps_[step]);
  std::string marked;
  for (const char c : text) {
    if (c == ' ')
      marked += space;
    else
      marked += c;
  }
  const bool wanted =
      prepend == Metaspace::Prepend::always || (prepend == Metaspace::Prepend::first && first);
  if (wanted && !marked.starts_with(space)) marked.insert(0, space);
  if (!split) return run(step + 1, marked, first, sink);
  const std::string_view all = marked;
  for (std::size_t begin = 0; begin < all.size();) {
    const std::size_t end = std::min(all.find(space, begin + 1), all.size());
    run(step + 1, all.substr(begin, end - begin), first && begin == 0, sink);
    begin = end;
  }
}

}  // namespace samba
