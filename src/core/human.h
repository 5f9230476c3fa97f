#pragma once

#include <string>

namespace samba {

/// A count in at most three significant digits: 999 -> "999", 1234567 -> "1.23M". The letters are
/// k, M, B and T, as models and corpora are spoken of. "?" for what is not finite.
std::string human_count(double count);

/// A duration: 0.25 -> "250ms", 5.21 -> "5.2s", 75 -> "1m 15s", 3720 -> "1h 02m", 90000 -> "1d
/// 01h".
std::string human_seconds(double seconds);

/// A size in bytes: 1536 -> "1.50 KiB".
std::string human_bytes(double bytes);

}  // namespace samba
