#include "text/added_tokens.h"

#include <algorithm>
#include <deque>

#include "text/unicode.h"

namespace samba {
namespace {

constexpr std::size_t kBytes = 256;

std::size_t pair_index(char first, char second) {
  return kBytes * static_cast<unsigned char>(first) + static_cast<unsigned char>(second);
}

/// Where the character before text[at] begins; at > 0.
std::size_t previous(std::string_view text, std::size_t at) {
  do --at;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80);
  return at;
}

bool word_before(std::string_view text, std::size_t at) {
  return at > 0 && is_word_char(char_at(text, previous(text, at)).code);
}

bool word_behind(std::string_view text, std::size_t at) {
  return at < text.size() && is_word_char(char_at(text, at).code);
}

std::size_t spaces_before(std::string_view text, std::size_t at) {
  while (at > 0 && char_at(text, previous(text, at)).kind == CharClass::space)
    at = previous(text, at);
  return at;
}

std::size_t spaces_behind(std::string_view text, std::size_t at) {
  for (Char c; (c = char_at(text, at)).bytes > 0 && c.kind == CharClass::space;) at += c.bytes;
  return at;
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::erase_if(tokens_, [](const AddedToken& token) { return token.content.empty(); });
  if (tokens_.empty()) return;
  std::stable_sort(tokens_.begin(), tokens_.end(),
                   [](const AddedToken& a, const AddedToken& b) { return a.content < b.content; });
  // Sorted tokens that share their first `depth` bytes are a node, and the node's children are runs
  // of them that share the next byte too.
  struct Run {
    std::size_t begin, end, depth;
  };
  std::deque<Run> open{{0, tokens_.size(), 0}};
  nodes_.emplace_back();
  for (std::size_t node = 0; !open.empty(); ++node) {
    auto [begin, end, depth] = open.front();
    open.pop_front();
    for (; begin < end && tokens_[begin].content.size() == depth; ++begin)
      nodes_[node].token = static_cast<std::int32_t>(begin);
    nodes_[node].first_edge = static_cast<std::uint32_t>(edges_.size());
    while (begin < end) {
      const char byte = tokens_[begin].content[depth];
      std::size_t next = begin;
      while (next < end && tokens_[next].content[depth] == byte) ++next;
      edges_.push_back(
          {static_cast<std::uint8_t>(byte), static_cast<std::uint32_t>(nodes_.size())});
      nodes_.emplace_back();
      open.push_back({begin, next, depth + 1});
      begin = next;
    }
    nodes_[node].edges = static_cast<std::uint32_t>(edges_.size()) - nodes_[node].first_edge;
  }
  roots_.assign(kBytes, 0);
  for (std::uint32_t i = 0; i < nodes_[0].edges; ++i) roots_[edges_[i].byte] = edges_[i].node;
  for (const AddedToken& token : tokens_) {
    const std::size_t first = pair_index(token.content[0], 0);
    if (token.content.size() > 1)
      begins_.set(pair_index(token.content[0], token.content[1]));
    else
      for (std::size_t second = 0; second < kBytes; ++second) begins_.set(first + second);
  }
}

// Most text begins no token, spaces in front of words least of all.
bool AddedTokens::may_begin(std::string_view text, std::size_t at) const {
  return at + 1 < text.size() ? begins_[pair_index(text[at], text[at + 1])]
                              : roots_[static_cast<unsigned char>(text[at])] != 0;
}

std::pair<std::int32_t, std::size_t> AddedTokens::longest(std::string_view text,
                                                          std::size_t at) const {
  std::uint32_t node = roots_[static_cast<unsigned char>(text[at])];
  std::int32_t token = -1;
  std::size_t end = at;
  while (node != 0) {
    ++at;
    if (nodes_[node].token >= 0) {
      token = nodes_[node].token;
      end = at;
    }
    if (at == text.size()) break;
    const Edge* first = edges_.data() + nodes_[node].first_edge;
    const Edge* last = first + nodes_[node].edges;
    const auto byte = static_cast<std::uint8_t>(text[at]);
    const Edge* edge = std::lower_bound(
        first, last, byte, [](const Edge& e, std::uint8_t wanted) { return e.byte < wanted; });
    node = edge != last && edge->byte == byte ? edge->node : 0;
  }
  return {token, end};
}

void AddedTokens::split(std::string_view text, const Sink& sink) const {
  std::size_t done = 0;
  for (std::size_t at = 0; !tokens_.empty() && at < text.size();) {
    if (!may_begin(text, at)) {
      ++at;
      continue;
    }
    const auto [index, end] = longest(text, at);
    if (index < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<std::size_t>(index)];
    std::size_t start = at, stop = end;
    at = end;
    if (token.single_word && (word_before(text, start) || word_behind(text, stop))) continue;
    if (token.lstrip) start = std::max(spaces_before(text, start), done);
    if (token.rstrip) stop = spaces_behind(text, stop);
    if (done < start) sink(-1, text.substr(done, start - done));
    sink(token.id, {});
    // A token may begin in the white space that one before it took; text goes on behind this one.
    done = stop;
  }
  if (done < text.size()) sink(-1, text.substr(done));
}

}  // namespace samba
