#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

namespace samba {

/// Points of one curve, drawn in the order given. Where a point cannot be drawn (NaN, infinite, not
/// positive on a logarithmic axis) the curve has a gap.
struct Series {
  /// line      a curve
  /// averaged  every point pale, and over them the curve of their running mean (averaging_reach)
  /// marked    a curve with a mark at each point
  /// valued    the same, with the value written at each point
  enum class Style { line, averaged, marked, valued };

  std::string name;
  std::vector<double> x;
  std::vector<double> y;  ///< as many as x
  Style style = Style::line;
};

struct Axis {
  std::string label;
  bool log = false;
  std::vector<double> ticks = {};   ///< empty: round numbers are chosen
  std::optional<double> high = {};  ///< the axis ends about here; what lies above is cut off
};

/// A line chart.
struct Chart {
  std::string title;  ///< read out instead of the picture
  Axis x;
  Axis y;
  std::vector<Series> series;
  std::optional<double> mark = {};  ///< an x to point out by a vertical line
  std::string mark_label = {};
};

/// Of the drawing, in units that are CSS pixels when it is shown unscaled; text has 13 of them.
struct ChartSize {
  int width = 720;
  int height = 360;
};

/// The chart as an `<svg>` element whose classes chart_style() gives colours. Throws an Error when
/// a series has not as many x as y.
std::string chart_svg(const Chart& chart, ChartSize size);

/// How many points on either side of each the running mean of an averaged series of `points` points
/// takes in; 0: so few that they are drawn as they are.
std::size_t averaging_reach(std::size_t points);

/// The mean of each value and up to `reach` on either side, fewer towards the ends, but always as
/// many before as behind. Values that are not finite count for nothing and stay what they are.
std::vector<double> smoothed(const std::vector<double>& values, std::size_t reach);

/// How many points of the chart cannot be drawn.
std::size_t undrawn_points(const Chart& chart);

/// CSS for every chart of a page: for light and dark screens and for paper. Six colours that remain
/// apart for the colour-blind (Okabe & Ito 2008), and marks of four shapes.
std::string chart_style();

/// Round numbers within [low, high], about `target` of them: 1, 2 or 5 times a power of ten.
std::vector<double> round_ticks(double low, double high, bool log, int target);

}  // namespace samba
