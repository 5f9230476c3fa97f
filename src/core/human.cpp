#include "core/human.h"

#include <cmath>
#include <cstdio>
#include <string_view>

namespace samba {
namespace {

template <class... Values>
std::string printed(const char* format, Values... values) {
  char text[64];
  std::snprintf(text, sizeof(text), format, values...);
  return text;
}

/// Three significant digits of 0 <= value < 1024.
std::string three_digits(double value) {
  if (value >= 99.95) return printed("%.0f", value);
  if (value >= 9.995) return printed("%.1f", value);
  return printed("%.2f", value);
}

/// `value` divided by `step` until it prints below `step`, with the unit of that many divisions.
template <std::size_t units>
std::string scaled(double value, double step, const std::string_view (&names)[units]) {
  if (!std::isfinite(value)) return "?";
  if (value < 0) return "-" + scaled(-value, step, names);
  std::size_t unit = 0;
  // 999.6 would print as 1000: half a unit of the last printed digit counts as reached.
  for (; unit + 1 < units && value >= step - 0.5; ++unit) value /= step;
  const bool whole = unit == 0 && value == std::floor(value);
  if (unit == 0 && value > 0 && value < 0.01) return printed("%.3g", value).append(names[0]);
  return (whole || value >= 999.5 ? printed("%.0f", value) : three_digits(value))
      .append(names[unit]);
}

}  // namespace

std::string human_count(double count) {
  return scaled(count, 1000, {std::string_view(""), "k", "M", "B", "T"});
}

std::string human_bytes(double bytes) {
  return scaled(bytes, 1024, {std::string_view(" B"), " KiB", " MiB", " GiB", " TiB"});
}

std::string human_seconds(double seconds) {
  if (!std::isfinite(seconds)) return "?";
  if (seconds < 0) return "-" + human_seconds(-seconds);
  if (seconds == 0) return "0s";
  if (seconds < 0.0095) return printed("%.2gms", seconds * 1e3);
  if (seconds < 0.9995) return printed("%.0fms", seconds * 1e3);
  if (seconds < 9.95 && seconds != std::floor(seconds)) return printed("%.1fs", seconds);
  if (seconds < 59.5) return printed("%.0fs", seconds);
  if (seconds < 3599.5) {
    const long whole = std::lround(seconds);
    return printed("%ldm %02lds", whole / 60, whole % 60);
  }
  const double minutes = std::round(seconds / 60);
  if (minutes < 24 * 60) {
    return printed("%.0fh %02.0fm", std::floor(minutes / 60), std::fmod(minutes, 60));
  }
  const double hours = std::round(seconds / 3600);
  return printed("%.0fd %02.0fh", std::floor(hours / 24), std::fmod(hours, 24));
}

}  // namespace samba
