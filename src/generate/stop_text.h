#pragma once

#include <string>
#include <vector>

namespace samba {

/// Watches streamed text for stop strings. Text that may be the beginning of one is held back, so
/// that a stop string is never shown, not even in part.
class StopText {
 public:
  explicit StopText(std::vector<std::string> stops);

  /// The text that may be shown after `text`; stopped() says whether a stop string ended it.
  std::string push(const std::string& text);
  /// What was held back, at the end of the stream.
  std::string flush();
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace samba
