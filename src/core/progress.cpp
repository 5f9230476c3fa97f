#include "core/progress.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

namespace samba {
namespace {

constexpr double kSilence = 2;         // seconds before anything is shown
constexpr double kLiveInterval = 0.1;  // seconds between two drawings
constexpr double kPlainInterval = 10;  // seconds between two plain lines
constexpr double kRateWindow = 15;     // the rate is over one to two of these, in seconds

std::string bar(double share, int columns, bool unicode) {
  const int halves = static_cast<int>(std::floor(share * 2 * columns));
  std::string text;
  if (!unicode) {
    text.append(static_cast<std::size_t>(halves / 2), '#');
    text.append(static_cast<std::size_t>(columns - halves / 2), '-');
    return "[" + text + "]";
  }
  for (int i = 0; i < columns; ++i)
    text += 2 * i + 2 <= halves ? "━" : 2 * i + 1 <= halves ? "╸" : "─";
  return text;
}

int bar_columns(int terminal_columns) {
  if (terminal_columns >= 110) return 30;
  return terminal_columns >= 90 ? 20 : 12;
}

std::string percent(double share) {
  return std::to_string(static_cast<int>(std::floor(share * 100))) + "%";
}

std::string joined(const std::vector<std::string>& parts, std::string_view between) {
  std::string text;
  for (const std::string& part : parts) {
    if (part.empty()) continue;
    if (!text.empty()) text += between;
    text += part;
  }
  return text;
}

}  // namespace

Progress::Progress(Options options, Terminal terminal)
    : options_(std::move(options)), terminal_(std::move(terminal)) {
  options_.label = printable(options_.label, terminal_.unicode);
  options_.unit = printable(options_.unit, terminal_.unicode);
  start_ = {terminal_.seconds(), options_.done};
  older_ = recent_ = now_ = start_;
  last_shown_ = start_.seconds;
}

Progress::~Progress() {
  if (on_screen_) terminal_.write("\n");
}

void Progress::update(double done, std::string_view extra) {
  if (options_.quiet) return;
  now_ = {terminal_.seconds(), done};
  extra_.assign(extra);
  if (now_.seconds - recent_.seconds >= kRateWindow) older_ = std::exchange(recent_, now_);
  const double interval = terminal_.live ? kLiveInterval : kPlainInterval;
  if (now_.seconds - start_.seconds < kSilence) return;
  if (shown_ && now_.seconds - last_shown_ < interval) return;
  draw();
}

void Progress::draw() {
  shown_ = true;
  last_shown_ = now_.seconds;
  if (terminal_.live) {
    // The line is overwritten and only its rest erased, in one write: nothing flickers.
    terminal_.write("\r" + live_line() + "\x1b[K");
    on_screen_ = true;
  } else {
    terminal_.write(plain_line() + "\n");
  }
}

void Progress::say(std::string_view line) {
  if (options_.quiet) return;
  const std::string safe = printable(line, terminal_.unicode);
  if (!on_screen_) return terminal_.write(safe + "\n");
  terminal_.write("\r" + safe + "\x1b[K\n" + live_line() + "\x1b[K");
}

void Progress::finish() {
  if (options_.quiet || std::exchange(finished_, true)) return;
  now_.seconds = terminal_.seconds();
  const bool is_long = shown_ || now_.seconds - start_.seconds >= kSilence;
  if (is_long || options_.always_finish) {
    const std::string line = finishing_line();
    terminal_.write(on_screen_ ? "\r" + line + "\x1b[K\n" : line + "\n");
  }
  on_screen_ = false;
}

double Progress::rate() const {
  const double seconds = now_.seconds - older_.seconds;
  return seconds > 0 ? (now_.done - older_.done) / seconds : 0;
}

double Progress::seconds_left() const {
  if (options_.total <= 0 || rate() <= 0) return -1;
  return std::max(0.0, options_.total - now_.done) / rate();
}

std::string Progress::counts() const {
  const std::string total = options_.total > 0 ? "/" + human_count(options_.total) : "";
  return human_count(now_.done) + total + " " + options_.unit;
}

std::string Progress::live_line() const {
  const bool has_total = options_.total > 0;
  const double share = has_total ? std::clamp(now_.done / options_.total, 0.0, 1.0) : 0;
  const double left = seconds_left();
  const int columns = terminal_.columns();
  const int room = std::max(0, columns - 1);  // a full last column would wrap on some terminals
  const std::string spent = human_seconds(std::floor(now_.seconds - start_.seconds));
  enum Part { label, drawing, done, count, speed, time, extra };
  std::vector<std::string> parts{
      options_.label,
      has_total ? bar(share, bar_columns(columns), terminal_.unicode) : "",
      has_total ? std::string(4 - percent(share).size(), ' ') + percent(share) : "",
      counts(),
      human_count(rate()) + "/s",
      has_total ? (left < 0 ? "" : human_seconds(std::ceil(left)) + " left") : spent,
      printable(extra_, terminal_.unicode)};
  // What is least missed goes first where the terminal is narrow.
  for (const Part part : {count, drawing, speed, time, label}) {
    if (display_width(joined(parts, "  ")) <= room) break;
    parts[part].clear();
  }
  return clipped(joined(parts, "  "), room, terminal_.unicode ? "…" : "...");
}

std::string Progress::plain_line() const {
  const bool has_total = options_.total > 0;
  const double share = has_total ? std::clamp(now_.done / options_.total, 0.0, 1.0) : 0;
  const double left = seconds_left();
  return options_.label + ": " +
         joined({has_total ? percent(share) : "", counts(),
                 human_count(rate()) + " " + options_.unit + "/s",
                 left < 0 ? "" : human_seconds(std::ceil(left)) + " left",
                 printable(extra_, terminal_.unicode)},
                ", ");
}

std::string Progress::finishing_line() const {
  const double seconds = now_.seconds - start_.seconds;
  const bool cut_short = options_.total > 0 && now_.done < options_.total;
  const std::string mean =
      seconds > 0 ? human_count((now_.done - start_.done) / seconds) + " " + options_.unit + "/s"
                  : "";
  return options_.label + ": " +
         joined({(cut_short ? counts() : human_count(now_.done) + " " + options_.unit) + " in " +
                     human_seconds(seconds),
                 mean, printable(extra_, terminal_.unicode)},
                ", ");
}

}  // namespace samba
