#pragma once

#include <simdjson.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"

namespace samba {

/// A place in a large JSON document of somebody else, such as a tokenizer.json. What is not as
/// asked for is an Error "FILE: model.vocab: found a string; expected an object". core/json.h is
/// for small documents of our own: it would need minutes for a vocabulary.
class JsonNode {
 public:
  JsonNode(simdjson::dom::element element, std::string place)
      : element_(element), place_(std::move(place)) {}

  const std::string& place() const { return place_; }
  bool is_null() const { return element_.is_null(); }
  bool is_string() const { return element_.is_string(); }
  bool is_object() const { return element_.is_object(); }
  bool is_list() const { return element_.is_array(); }

  /// The member of this object, which is missing or null otherwise.
  std::optional<JsonNode> find(std::string_view key) const;
  /// The member of this object; an Error where it is missing or null.
  JsonNode at(std::string_view key) const;
  /// The elements of this list. Lists of tokenizers may be long: see list() for those.
  std::vector<JsonNode> elements() const;

  simdjson::dom::object object() const;
  simdjson::dom::array list() const;
  std::string_view text() const;
  bool boolean() const;
  /// A whole number from 0 to `most`.
  std::int32_t number(std::int32_t most) const;
  /// text() of a member; `otherwise` where it is missing or null.
  std::string text(std::string_view key, std::string_view otherwise) const;
  bool boolean(std::string_view key, bool otherwise) const;

  /// Throws "FILE: model.type: found ...; expected ...", with `found` in quotes.
  [[noreturn]] void refuse(std::string_view found, std::string_view expected) const;

 private:
  simdjson::dom::element element_;
  std::string place_;  ///< "FILE: model.vocab"

  [[noreturn]] void expected(std::string_view kind) const;
};

/// Throws an Error where a list of steps, such as those of a normalizer, goes on behind `count`
/// ones: every text goes through them all.
void expect_few_steps(const JsonNode& step, std::size_t count);

/// A parsed document: owns what its nodes look at.
class JsonDocument {
 public:
  /// Throws an Error that begins with `name` on text that is no JSON, or nested too deeply.
  JsonDocument(std::string_view bytes, const std::string& name);
  JsonNode root() const { return {root_, name_}; }

 private:
  std::string name_;
  simdjson::dom::parser parser_;
  simdjson::dom::element root_;
};

/// Text as an error shows it: quoted, on one line, at most 60 bytes.
std::string quote(std::string_view text);

}  // namespace samba
