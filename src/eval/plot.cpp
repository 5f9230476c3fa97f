#include "eval/plot.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "core/terminal.h"
#include "eval/markup.h"

namespace samba {
namespace {

constexpr double kCharacter = 7.3;  // widest mean advance of 13-pixel system fonts, in pixels
constexpr double kLine = 20;        // height of a line of text
constexpr double kLargest = 1e100;  // beyond it the arithmetic of axes would overflow
constexpr std::size_t kColours = 6;
constexpr std::size_t kPlentiful = 60;  // points from which an averaged series is averaged
constexpr std::size_t kTargets = 60;    // points of a curve that tell their value under the pointer

double text_width(std::string_view text) {
  return kCharacter * display_width(text);
}

bool drawable(double value, const Axis& axis) {
  return std::abs(value) <= kLargest && (!axis.log || value >= 1 / kLargest);
}

bool drawable(const Chart& chart, const Series& series, std::size_t i) {
  return drawable(series.x[i], chart.x) && drawable(series.y[i], chart.y);
}

/// A point alone is marked in any style: its curve is a dot that would be overlooked.
bool has_marks(const Series& series) {
  return series.style == Series::Style::marked || series.style == Series::Style::valued ||
         series.x.size() == 1;
}

/// From values to pixels.
struct Scale {
  double low, high;  ///< values
  double from, to;   ///< pixels
  bool log;

  double at(double value) const {
    const double share =
        log ? std::log(value / low) / std::log(high / low) : (value - low) / (high - low);
    return from + share * (to - from);
  }
};

struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -low;

  void include(double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  bool empty() const { return low > high; }
};

/// Widened where it is too narrow to be an axis: one value, or a difference that would make noise
/// look like a trend.
Range widened(Range range, bool log, double least) {
  if (range.empty()) return log ? Range{1, 10} : Range{0, 1};
  const double magnitude = std::max(std::abs(range.low), std::abs(range.high));
  const double missing =
      least * (magnitude > 1 / kLargest ? magnitude : 1) - (range.high - range.low);
  if (missing <= 0) return range;
  if (log) return {range.low / (1 + least), range.high * (1 + least)};
  const bool from_zero = range.low >= 0 && range.low < missing / 2;
  return {from_zero ? 0 : range.low - missing / 2, range.high + missing / 2};
}

/// With room on both sides, as a share of the axis; down to zero where that is near.
Range padded(Range range, bool log, double room) {
  if (log) {
    const double factor = std::pow(range.high / range.low, room);
    return {range.low / factor, range.high * factor};
  }
  const double space = room * (range.high - range.low);
  const bool from_zero = range.low >= 0 && range.low < std::max(space, 0.1 * range.high);
  return {from_zero ? 0 : range.low - space, range.high + space};
}

double round_step(double raw) {
  const double power = std::pow(10, std::floor(std::log10(raw)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (raw <= factor * power * (1 + 1e-9)) return factor * power;
  }
  return 10 * power;
}

/// The number without needless digits; thousands as k, M, B.
std::string short_number(double value) {
  constexpr std::pair<double, const char*> kUnits[] = {
      {1e12, "T"}, {1e9, "B"}, {1e6, "M"}, {1e3, "k"}};
  for (const auto& [unit, letter] : kUnits) {
    if (value >= unit * (1 - 1e-9)) return coordinate(value / unit, 3) + letter;
  }
  if (value != 0 && std::abs(value) < 1e-3) {
    const double power = std::floor(std::log10(std::abs(value)) + 1e-9);
    return coordinate(value / std::pow(10, power), 2) + "e" + coordinate(power);
  }
  return coordinate(value, 6);
}

/// A value of an axis. Where the caller chose the ticks they are known numbers, such as 1024, and
/// are not shortened.
std::string value_text(const Axis& axis, double value) {
  return axis.ticks.empty() ? short_number(value) : coordinate(value, 6);
}

/// Labels with equally many decimals, as far as plain decimals suit the numbers.
std::vector<std::string> tick_labels(const std::vector<double>& ticks, const Axis& axis) {
  double largest = 0;
  for (const double tick : ticks) largest = std::max(largest, std::abs(tick));
  const double step = ticks.size() > 1 ? std::abs(ticks[1] - ticks[0]) : 1;
  const bool plain = !axis.log && axis.ticks.empty() && largest < 1000 && step < 1 && step > 0.9e-3;
  const auto decimals = static_cast<std::size_t>(plain ? std::ceil(-std::log10(step) - 1e-9) : 0);
  std::vector<std::string> labels;
  for (const double tick : ticks) {
    std::string label = value_text(axis, tick);
    if (plain) {
      const std::size_t point = label.find('.');
      const std::size_t found = point == std::string::npos ? 0 : label.size() - point - 1;
      if (found == 0) label += '.';
      label.append(decimals > found ? decimals - found : 0, '0');
    }
    labels.push_back(label[0] == '-' ? "−" + label.substr(1) : label);
  }
  return labels;
}

std::string element_text(std::string_view css, double x, double y, std::string_view anchor,
                         std::string_view text) {
  return text_of("<text class=\"", css, "\" x=\"", coordinate(x), "\" y=\"", coordinate(y),
                 "\" text-anchor=\"", anchor, "\">", escaped(text), "</text>\n");
}

std::string element_line(std::string_view css, double x1, double y1, double x2, double y2) {
  return text_of("<line class=\"", css, "\" x1=\"", coordinate(x1), "\" y1=\"", coordinate(y1),
                 "\" x2=\"", coordinate(x2), "\" y2=\"", coordinate(y2), "\"/>\n");
}

/// One of four shapes around a point, so that curves differ in more than their colour.
std::string mark_path(std::size_t series, double x, double y) {
  constexpr std::string_view kShapes[] = {"m-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
                                          "m-3.6 -3.6h7.2v7.2h-7.2z", "m0 -4.8l4.6 8.2h-9.2z",
                                          "m0 -5l5 5l-5 5l-5 -5z"};
  return text_of("M", coordinate(x), " ", coordinate(y), kShapes[series % 4]);
}

struct Tick {
  double value;
  std::string label;
};

std::vector<Tick> ticks_of(const Axis& axis, const Range& range, int target) {
  std::vector<double> values = axis.ticks;
  // A single tick would not tell the scale.
  for (int wanted = target; axis.ticks.empty() && values.size() < 3 && wanted <= 4 * target;
       ++wanted)
    values = round_ticks(range.low, range.high, axis.log, wanted);
  std::erase_if(values, [&](double v) { return v < range.low || v > range.high; });
  const std::vector<std::string> labels = tick_labels(values, axis);
  std::vector<Tick> ticks;
  for (std::size_t i = 0; i < values.size(); ++i) ticks.push_back({values[i], labels[i]});
  return ticks;
}

/// Draws one chart: places the axes when it is made, then adds element after element.
class Drawing {
 public:
  Drawing(const Chart& chart, ChartSize size) : chart_(chart), size_(size) { place_axes(); }

  std::string svg() {
    out_ = text_of("<svg class=\"chart\" viewBox=\"0 0 ", size_.width, " ", size_.height,
                   "\" role=\"img\" aria-label=\"", escaped(chart_.title), "\">\n");
    draw_legend();
    draw_axes();
    draw_mark();
    if (!drawn_) {
      out_ +=
          element_text("note", (x_.from + x_.to) / 2, (y_.from + y_.to) / 2, "middle", "no data");
    }
    if (chart_.y.high) open_frame();
    for (std::size_t i = 0; i < chart_.series.size(); ++i) draw_series(i);
    if (chart_.y.high) out_ += "</svg>\n";
    return out_ + "</svg>\n";
  }

 private:
  struct Entry {
    std::size_t series;
    double x, y;
  };

  bool has_values() const {
    return std::any_of(chart_.series.begin(), chart_.series.end(),
                       [](const Series& s) { return s.style == Series::Style::valued; });
  }
  void place_axes();
  void place_legend();
  void draw_legend();
  void draw_axes();
  void draw_mark();
  void open_frame();
  void draw_series(std::size_t i);
  std::string curve(const Series& series) const;
  void draw_values(const Series& series);
  void draw_targets(const Series& series, std::size_t number);
  /// Classes of what belongs to a series. Where colours come round again, curves are dashed.
  std::string css(std::string_view name, std::size_t series) const {
    return text_of(name, " s", series % kColours + 1, series >= kColours ? " again" : "");
  }

  const Chart& chart_;
  ChartSize size_;
  std::vector<Entry> legend_;
  std::vector<Tick> x_ticks_, y_ticks_;
  Scale x_{}, y_{};
  double top_ = 0;  ///< of the first line of text above the plot
  bool drawn_ = false;
  std::string out_;
};

void Drawing::place_legend() {
  top_ = 4;
  if (chart_.series.size() < 2) return;
  double x = 0;
  for (std::size_t i = 0; i < chart_.series.size(); ++i) {
    const double width = 28 + text_width(chart_.series[i].name) + 18;
    if (x > 0 && x + width > size_.width) {
      x = 0;
      top_ += kLine;
    }
    legend_.push_back({i, x, top_ + 14});
    x += width;
  }
  top_ += kLine + 8;
}

void Drawing::place_axes() {
  place_legend();
  Range x, y;
  for (const Series& series : chart_.series) {
    if (series.x.size() != series.y.size())
      fail("chart: series ", series.name, ": found ", series.x.size(), " x and ", series.y.size(),
           " y; expected equally many");
    for (std::size_t i = 0; i < series.x.size(); ++i) {
      if (!drawable(chart_, series, i)) continue;
      drawn_ = true;
      x.include(series.x[i]);
      y.include(series.y[i]);
    }
  }
  if (chart_.mark && drawn_ && drawable(*chart_.mark, chart_.x)) x.include(*chart_.mark);
  if (chart_.y.high && drawn_ && *chart_.y.high > y.low) y.high = std::min(y.high, *chart_.y.high);
  if (!chart_.x.log && x.low > 0 && x.low < 0.1 * x.high) x.low = 0;
  x = widened(x, chart_.x.log, x.low == x.high ? 1 : 1e-6);
  y = padded(widened(y, chart_.y.log, 0.1), chart_.y.log, has_values() ? 0.15 : 0.05);

  const double bottom = size_.height - (chart_.x.label.empty() ? 26 : 26 + kLine);
  const double above = top_ + (chart_.y.label.empty() ? 6 : kLine + 6) + (chart_.mark ? kLine : 0);
  const int rows = std::max(2, static_cast<int>((bottom - above) / 50));
  y_ticks_ = ticks_of(chart_.y, y, rows);
  double left = 0;
  for (const Tick& tick : y_ticks_) left = std::max(left, text_width(tick.label));
  // Marks and values at the ends of a log axis of few points need room to the sides.
  const bool inset = chart_.x.log;
  const double from = left + 10 + (inset ? 24 : 0), to = size_.width - (inset ? 32 : 12);
  x_ticks_ = ticks_of(chart_.x, x, std::max(2, static_cast<int>((to - from) / 90)));
  x_ = {x.low, x.high, from, to, chart_.x.log};
  y_ = {y.low, y.high, bottom, above, chart_.y.log};
}

void Drawing::draw_legend() {
  for (const Entry& entry : legend_) {
    const Series& series = chart_.series[entry.series];
    out_ += element_line(css("curve", entry.series), entry.x + 1, entry.y - 4, entry.x + 21,
                         entry.y - 4);
    if (has_marks(series)) {
      out_ += text_of("<path class=\"", css("mark", entry.series), "\" d=\"",
                      mark_path(entry.series, entry.x + 11, entry.y - 4), "\"/>\n");
    }
    out_ += element_text("name", entry.x + 28, entry.y, "start", series.name);
  }
}

void Drawing::draw_axes() {
  if (!chart_.y.label.empty()) out_ += element_text("label", 0, top_ + 13, "start", chart_.y.label);
  const double left = x_.from - (chart_.x.log ? 24 : 0), right = x_.to + (chart_.x.log ? 24 : 0);
  for (const Tick& tick : y_ticks_) {
    const double y = y_.at(tick.value);
    out_ += element_line("grid", left, y, right, y);
    out_ += element_text("tick", left - 8, y + 4.5, "end", tick.label);
  }
  out_ += element_line("axis", left, y_.from, right, y_.from);
  double taken = -1e9;  // labels end here
  for (const Tick& tick : x_ticks_) {
    const double x = x_.at(tick.value), half = text_width(tick.label) / 2;
    const double middle = std::clamp(x, half, std::max(half, size_.width - half));
    if (middle - half < taken) continue;
    taken = middle + half + 8;
    out_ += element_line("axis", x, y_.from, x, y_.from + 5);
    out_ += element_text("tick", middle, y_.from + 20, "middle", tick.label);
  }
  if (!chart_.x.label.empty())
    out_ +=
        element_text("label", (left + right) / 2, y_.from + 20 + kLine, "middle", chart_.x.label);
}

void Drawing::draw_mark() {
  if (!chart_.mark || !drawn_ || !drawable(*chart_.mark, chart_.x)) return;
  const double x = x_.at(*chart_.mark), width = text_width(chart_.mark_label);
  out_ += element_line("pointer", x, y_.to - 6, x, y_.from);
  const double start = std::max(0.0, std::min(x - width / 2, size_.width - width));
  out_ += element_text("label", start, y_.to - 11, "start", chart_.mark_label);
}

/// An svg element within the svg cuts off what is drawn above the plot, and nothing else.
void Drawing::open_frame() {
  const std::string top = coordinate(y_.to), height = coordinate(size_.height - y_.to);
  out_ += text_of("<svg x=\"0\" y=\"", top, "\" width=\"", size_.width, "\" height=\"", height,
                  "\" viewBox=\"0 ", top, " ", size_.width, " ", height, "\">\n");
}

/// The path through the points. Where many fall into one column of pixels the lowest and the
/// highest stand for all, which looks the same.
std::string Drawing::curve(const Series& series) const {
  std::string path;
  bool open = false;  // the pen is down
  const auto go = [&](double x, double y) {
    path += text_of(open ? "L" : "M", coordinate(x), " ", coordinate(y));
    // A point alone becomes a line of no length, whose round ends make a dot.
    if (!open) path += "h0";
    open = true;
  };
  for (std::size_t i = 0; i < series.x.size();) {
    if (!drawable(chart_, series, i)) {
      open = false;
      ++i;
      continue;
    }
    const double column = std::floor(x_.at(series.x[i]));
    std::size_t low = i, high = i, end = i + 1;
    for (; end < series.x.size() && drawable(chart_, series, end); ++end) {
      if (std::floor(x_.at(series.x[end])) != column) break;
      if (series.y[end] < series.y[low]) low = end;
      if (series.y[end] > series.y[high]) high = end;
    }
    std::vector<std::size_t> kept{i, std::min(low, high), std::max(low, high), end - 1};
    kept.erase(std::unique(kept.begin(), kept.end()), kept.end());
    for (const std::size_t k : kept) go(x_.at(series.x[k]), y_.at(series.y[k]));
    i = end;
  }
  return path;
}

void Drawing::draw_series(std::size_t i) {
  Series series = chart_.series[i];
  const auto draw_curve = [&](std::string_view kind) {
    out_ += text_of("<path class=\"", css(kind, i), "\" d=\"", curve(series), "\"/>\n");
  };
  const std::size_t reach =
      series.style == Series::Style::averaged ? averaging_reach(series.x.size()) : 0;
  if (reach > 0) {
    draw_curve("curve faint");
    series.y = smoothed(series.y, reach);
  }
  draw_curve("curve");
  if (has_marks(series)) {
    std::string marks;
    for (std::size_t p = 0; p < series.x.size(); ++p) {
      if (!drawable(chart_, series, p)) continue;
      marks += mark_path(i, x_.at(series.x[p]), y_.at(series.y[p]));
    }
    out_ += text_of("<path class=\"", css("mark", i), "\" d=\"", marks, "\"/>\n");
  }
  if (series.style == Series::Style::valued) draw_values(series);
  draw_targets(series, i);
}

void Drawing::draw_values(const Series& series) {
  std::vector<std::size_t> points;
  for (std::size_t p = 0; p < series.x.size(); ++p) {
    if (drawable(chart_, series, p)) points.push_back(p);
  }
  double taken = -1e9;
  for (std::size_t i = 0; i < points.size(); ++i) {
    const double value = series.y[points[i]], y = y_.at(value);
    const std::string text = fixed(value, value < 100 ? 2 : 0);
    const double half = text_width(text) / 2;
    const double middle =
        std::clamp(x_.at(series.x[points[i]]), half, std::max(half, size_.width - half));
    if (middle - half < taken) continue;
    taken = middle + half + 4;
    // On the side that the curve bends away from.
    const double before = series.y[points[i == 0 ? i : i - 1]];
    const double behind = series.y[points[i + 1 == points.size() ? i : i + 1]];
    const bool below = before + behind > 2 * value && y + 26 < y_.from;
    out_ += element_text("value", middle, below ? y + 22 : y - 11, "middle", text);
  }
}

void Drawing::draw_targets(const Series& series, std::size_t number) {
  const std::size_t step = (series.x.size() + kTargets - 1) / kTargets;
  // From the last point backwards: the final value is the one that is looked for.
  for (std::size_t back = 0; back < series.x.size(); back += step) {
    const std::size_t p = series.x.size() - 1 - back;
    if (!drawable(chart_, series, p)) continue;
    out_ += text_of("<circle class=\"", css("target", number), "\" cx=\"",
                    coordinate(x_.at(series.x[p])), "\" cy=\"", coordinate(y_.at(series.y[p])),
                    "\" r=\"7\"><title>", escaped(series.name), ": ", coordinate(series.y[p], 4),
                    " at ", value_text(chart_.x, series.x[p]), " ", escaped(chart_.x.label),
                    "</title></circle>\n");
  }
}

}  // namespace

std::vector<double> round_ticks(double low, double high, bool log, int target) {
  std::vector<double> ticks;
  const double decades = log ? std::log10(high / low) : 0;
  if (log && decades > 0.7) {
    const int stride = std::max(1, static_cast<int>(std::ceil(decades / target)));
    for (int power = static_cast<int>(std::floor(std::log10(low))); std::pow(10, power) <= high;
         ++power) {
      for (const double factor : {1.0, 2.0, 5.0}) {
        const double tick = factor * std::pow(10, power);
        const bool wanted = factor == 1 ? power % stride == 0 : decades < 2;
        if (wanted && tick >= low * (1 - 1e-9) && tick <= high * (1 + 1e-9)) ticks.push_back(tick);
      }
    }
    return ticks;
  }
  // Closer numbers than this have no round ones between them that doubles could count.
  if (!(high - low > 1e-12 * std::max(std::abs(low), std::abs(high)))) return {low};
  const double step = round_step((high - low) / target);
  const double first = std::ceil(low / step - 1e-9);
  for (int i = 0; (first + i) * step <= high + 1e-9 * step; ++i) {
    ticks.push_back(first + i == 0 ? 0 : (first + i) * step);
  }
  return ticks;
}

std::size_t averaging_reach(std::size_t points) {
  return points < kPlentiful ? 0 : std::max<std::size_t>(2, points / 80);
}

std::vector<double> smoothed(const std::vector<double>& values, std::size_t reach) {
  // Sums of the finite values before each place, and their number.
  std::vector<double> sums(values.size() + 1), counts(values.size() + 1);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const bool finite = std::isfinite(values[i]);
    sums[i + 1] = sums[i] + (finite ? values[i] : 0);
    counts[i + 1] = counts[i] + (finite ? 1 : 0);
  }
  std::vector<double> means(values);
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) continue;
    const std::size_t near = std::min({reach, i, values.size() - 1 - i});
    const std::size_t first = i - near, end = i + near + 1;
    means[i] = (sums[end] - sums[first]) / (counts[end] - counts[first]);
  }
  return means;
}

std::string chart_svg(const Chart& chart, ChartSize size) {
  return Drawing(chart, size).svg();
}

std::size_t undrawn_points(const Chart& chart) {
  std::size_t count = 0;
  for (const Series& series : chart.series) {
    for (std::size_t i = 0; i < series.x.size(); ++i) count += !drawable(chart, series, i);
  }
  return count;
}

std::string chart_style() {
  return R"(:root {
  --chart-ink: #1f2328; --chart-soft: #5d6670; --chart-grid: #e6e4df; --chart-axis: #a9adb3;
  --chart-ground: #ffffff;
  --s1: #0072b2; --s2: #d55e00; --s3: #008f6b; --s4: #b5568f; --s5: #b57d00; --s6: #2f93cc;
}
@media (prefers-color-scheme: dark) {
  :root {
    --chart-ink: #e7e9ec; --chart-soft: #a3abb5; --chart-grid: #31363d; --chart-axis: #5b636d;
    --chart-ground: #1b1f24;
    --s1: #56b4e9; --s2: #f2884b; --s3: #3fc49a; --s4: #e29bc4; --s5: #e6b84c; --s6: #8fd0f5;
  }
}
@media print {
  :root {
    --chart-ink: #000; --chart-soft: #444; --chart-grid: #ddd; --chart-axis: #888;
    --chart-ground: #fff;
    --s1: #0072b2; --s2: #d55e00; --s3: #008f6b; --s4: #b5568f; --s5: #b57d00; --s6: #2f93cc;
  }
}
.chart { display: block; width: 100%; height: auto; overflow: visible;
  font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  font-variant-numeric: tabular-nums; }
.chart text { fill: var(--chart-soft); }
.chart .name, .chart .value { fill: var(--chart-ink); }
.chart .value { font-weight: 600; paint-order: stroke; stroke: var(--chart-ground); stroke-width: 4px; }
.chart .grid { stroke: var(--chart-grid); }
.chart .axis { stroke: var(--chart-axis); }
.chart .pointer { stroke: var(--chart-soft); stroke-dasharray: 4 4; }
.chart .curve { fill: none; stroke-width: 2; stroke-linecap: round; stroke-linejoin: round; }
.chart .faint { stroke-width: 1; opacity: 0.35; }
.chart .curve.again { stroke-dasharray: 5 5; }
.chart .mark { stroke: var(--chart-ground); stroke-width: 1.5; }
.chart .target { fill: transparent; stroke: none; }
.chart .s1 { --c: var(--s1); } .chart .s2 { --c: var(--s2); } .chart .s3 { --c: var(--s3); }
.chart .s4 { --c: var(--s4); } .chart .s5 { --c: var(--s5); } .chart .s6 { --c: var(--s6); }
.chart .curve { stroke: var(--c); }
.chart .mark { fill: var(--c); }
.chart .target:hover { fill: var(--c); fill-opacity: 0.35; }
)";
}

}  // namespace samba
