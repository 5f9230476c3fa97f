#include <algorithm>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "support/target.h"

// How libFuzzer changes an input. Its own changes break nearly every JSON text, so that little
// behind the parser would be reached: half of all changes are made to a document instead, where an
// input holds one at its beginning or behind the header length of safetensors.

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t most);

namespace samba::fuzz {
namespace {

constexpr std::size_t kLengthBytes = 8;

class Change {
 public:
  explicit Change(unsigned seed) : random_(seed) {}

  bool coin() { return below(2) == 0; }

  void apply(Json& document) {
    nodes_.clear();
    collect(document);
    Json& node = *nodes_[below(nodes_.size())];
    switch (below(7)) {
      case 0: node = unusual(); break;
      case 1: node = Json(*nodes_[below(nodes_.size())]); break;
      case 2: change_text(node); break;
      case 3: shift(node); break;
      case 4: erase(node); break;
      case 5: insert(node, *nodes_[below(nodes_.size())]); break;
      default: rename(node); break;
    }
  }

 private:
  std::minstd_rand random_;
  std::vector<Json*> nodes_;

  std::size_t below(std::size_t count) { return random_() % count; }

  void collect(Json& node) {
    nodes_.push_back(&node);
    if (node.is_structured())
      for (Json& inner : node) collect(inner);
  }

  Json unusual() {
    switch (below(12)) {
      case 0: return nullptr;
      case 1: return coin();
      case 2: return Json::array();
      case 3: return Json::object();
      case 4: return "";
      case 5: return 0;
      case 6: return -1;
      case 7: return std::int64_t{1} << below(63);
      case 8: return INT64_MAX;
      case 9: return UINT64_MAX;
      case 10: return 1e-300;
      default: return 1.5e300;
    }
  }

  std::string changed(std::string text) {
    const std::size_t size = text.size(), most = size + 16;
    text.resize(most);
    text.resize(LLVMFuzzerMutate(reinterpret_cast<std::uint8_t*>(text.data()), size, most));
    return text;
  }

  void change_text(Json& node) {
    if (node.is_string()) node = changed(node.get<std::string>());
  }

  void shift(Json& node) {
    if (!node.is_number_integer()) return;
    const auto by = static_cast<std::uint64_t>(below(5)) - 2;
    node = static_cast<std::int64_t>(node.get<std::uint64_t>() + by);
  }

  void erase(Json& node) {
    if (!node.is_structured() || node.empty()) return;
    node.erase(std::next(node.begin(), static_cast<std::ptrdiff_t>(below(node.size()))));
  }

  void insert(Json& node, const Json& value) {
    const Json copy = value;
    if (node.is_array()) node.push_back(copy);
    if (node.is_object()) node[some_key(node)] = copy;
  }

  std::string some_key(const Json& node) {
    const Json& other = *nodes_[below(nodes_.size())];
    const Json& object = other.is_object() && !other.empty() ? other : node;
    if (object.empty()) return "type";
    return std::next(object.begin(), static_cast<std::ptrdiff_t>(below(object.size()))).key();
  }

  void rename(Json& node) {
    if (!node.is_object() || node.empty()) return;
    const auto place = std::next(node.begin(), static_cast<std::ptrdiff_t>(below(node.size())));
    Json value = place.value();
    const std::string key = coin() ? changed(place.key()) : some_key(node);
    node.erase(place);
    node[key] = std::move(value);
  }
};

/// The input with its document changed; "" where it has none.
std::string with_changed_document(std::string_view input, Change& change) {
  std::uint64_t length = 0;
  const bool has_length = input.size() > kLengthBytes && input[kLengthBytes] == '{';
  if (has_length) std::memcpy(&length, input.data(), kLengthBytes);
  const std::size_t begin = has_length ? kLengthBytes : 0;
  const std::size_t end = has_length ? begin + std::min<std::uint64_t>(length, input.size() - begin)
                                     : std::min(input.find('\0'), input.size());
  const std::string_view text = input.substr(begin, end - begin);
  std::string changed;
  if (text.starts_with('{'))
    attempt([&] {
      Json document = parse_json(text, "input");
      do change.apply(document);
      while (change.coin());
      changed = document.dump(-1, ' ', false, Json::error_handler_t::replace);
    });
  if (changed.empty()) return "";
  std::string output;
  length = changed.size();
  if (has_length) output.append(reinterpret_cast<const char*>(&length), kLengthBytes);
  return output.append(changed).append(input.substr(end));
}

}  // namespace
}  // namespace samba::fuzz

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t most, unsigned seed) {
  samba::fuzz::Change change(seed);
  if (change.coin()) return LLVMFuzzerMutate(data, size, most);
  const std::string output =
      samba::fuzz::with_changed_document({reinterpret_cast<const char*>(data), size}, change);
  if (output.empty() || output.size() > most) return LLVMFuzzerMutate(data, size, most);
  std::copy(output.begin(), output.end(), data);
  return output.size();
}
