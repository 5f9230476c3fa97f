#include "generate/stop_text.h"

#include <algorithm>
#include <utility>

namespace samba {

StopText::StopText(std::vector<std::string> stops) : stops_(std::move(stops)) {
  std::erase(stops_, std::string());
}

std::string StopText::push(const std::string& text) {
  if (stopped_) return {};
  held_ += text;
  // Of several the one that is complete first, as if the text came letter by letter: what is shown
  // must not depend on where tokens end.
  std::size_t first = std::string::npos, end = std::string::npos;
  for (const std::string& stop : stops_) {
    const std::size_t begin = held_.find(stop);
    if (begin == std::string::npos) continue;
    if (std::pair(begin + stop.size(), begin) < std::pair(end, first)) {
      first = begin;
      end = begin + stop.size();
    }
  }
  if (first != std::string::npos) {
    stopped_ = true;
    held_.resize(first);
    return std::exchange(held_, {});
  }
  // The longest end of the text that begins a stop string stays back.
  std::size_t back = 0;
  for (const std::string& stop : stops_)
    for (std::size_t n = std::min(stop.size() - 1, held_.size()); n > back; --n)
      if (held_.compare(held_.size() - n, n, stop, 0, n) == 0) back = n;
  std::string shown = held_.substr(0, held_.size() - back);
  held_.erase(0, shown.size());
  return shown;
}

std::string StopText::flush() {
  return std::exchange(held_, {});
}

}  // namespace samba
