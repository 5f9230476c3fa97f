#pragma once

#include <sentencepiece_processor.h>

#include <string>
#include <string_view>

namespace sentencepiece::logging {
// Exported by the library, declared in none of its installed headers.
void SetMinLogLevel(int level);  // NOLINT(readability-identifier-naming)
}  // namespace sentencepiece::logging

namespace samba {

/// What SentencePiece has to say comes back as a Status; nothing goes to standard error.
inline void silence_sentencepiece() {
  constexpr int kNothing = 100;
  sentencepiece::logging::SetMinLogLevel(kNothing);
}

/// A Status' sentence, without the place in SentencePiece's sources.
inline std::string reason(const sentencepiece::util::Status& status) {
  const std::string_view message = status.error_message();
  const std::size_t place = message.rfind("] ");
  return std::string(place == message.npos ? message : message.substr(place + 2));
}

}  // namespace samba
