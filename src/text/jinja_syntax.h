#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "text/jinja.h"

namespace samba::jinja {

/// The pieces of a template, statements nested as they stand. Throws an Error "place: line N: ...".
std::vector<Node> parse(std::string_view source, const std::string& place);

}  // namespace samba::jinja
