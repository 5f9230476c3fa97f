#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace samba {

/// Everything that an input, a file or the machine can do wrong. The message names the place, what
/// was found and what was expected; `main` prints it after "sambalm: " and exits 1.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Joins its arguments as operator<< prints them.
template <class... Parts>
std::string text_of(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

/// Throws an Error whose message is its arguments, joined.
template <class... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  throw Error(text_of(parts...));
}

}  // namespace samba
