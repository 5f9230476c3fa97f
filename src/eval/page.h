#pragma once

#include <string>
#include <string_view>

#include "eval/plot.h"

namespace samba {

// What every HTML page of ours is made of: one file that needs no network and no scripts, for
// screens of any width, light or dark, and for paper. Pages are well-formed XML too.

struct PageHead {
  std::string title;
  std::string subtitle;  ///< one sentence; may be empty
  std::string version;   ///< of this program
  std::string date;      ///< may be empty
};

/// The page around `body`, sections of markup. The head's text may hold any bytes.
std::string page_html(const PageHead& head, std::string_view body);

/// `<p class="css">` with the text escaped; nothing where it is empty.
std::string paragraph(std::string_view css, std::string_view text);

/// The chart for wide and for narrow screens, and its caption.
std::string figure(const Chart& chart, std::string_view caption);

/// What a reader must know about the points that are missing from a chart.
std::string missing_note(const Chart& chart);

/// Two sentences with a space between them; either may be empty.
std::string joined(std::string first, std::string_view second);

}  // namespace samba
