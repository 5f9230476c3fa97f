#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

// Compiled once, in json.cpp: these are most of what a file that includes this would compile.
extern template class nlohmann::basic_json<nlohmann::ordered_map>;

namespace samba {

/// Keeps the order of keys, so that files read as they were written.
using Json = nlohmann::ordered_json;

/// Parses a JSON document. Throws an Error "place: ..." with line and column for text that is no
/// JSON, for a key that stands twice in one object and for nesting deeper than 64.
Json parse_json(std::string_view text, const std::string& place);

/// Reads and parses a file of at most 100 MB.
Json read_json(const std::string& path);

/// Writes the document with two spaces of indentation, as an AtomicFile.
void write_json(const std::string& path, const Json& document);

}  // namespace samba
