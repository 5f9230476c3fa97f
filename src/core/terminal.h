#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace samba {

/// Where people watch: what the stream can show, how to write to it, and a clock.
struct Terminal {
  bool live = false;             ///< the cursor can go back and a line be drawn again
  bool unicode = false;          ///< UTF-8 is understood; otherwise only ASCII is written
  std::function<int()> columns;  ///< its width now
  std::function<void(std::string_view)> write;  ///< one call is one system call
  std::function<double()> seconds;              ///< monotonic clock

  /// Standard error. Live when it is a terminal and TERM is not "dumb"; Unicode when the first of
  /// LC_ALL, LC_CTYPE and LANG that is set names UTF-8.
  static Terminal standard_error();
};

/// The columns that a text takes on a terminal: two for East Asian wide characters and emoji, none
/// for combining marks.
int display_width(std::string_view text);

/// The text made safe to show on one line: control characters become spaces, malformed bytes
/// U+FFFD; where `unicode` is false, everything beyond ASCII becomes '?'.
std::string printable(std::string_view text, bool unicode);

/// As much of the text as fits in `columns`, with `ellipsis` at the end where something is left
/// out.
std::string clipped(std::string_view text, int columns, std::string_view ellipsis);

}  // namespace samba
