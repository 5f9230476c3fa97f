#include "eval/report.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/files.h"
#include "eval/markup.h"

namespace samba {
namespace {

constexpr ChartSize kWide{720, 360};
constexpr ChartSize kNarrow{350, 300};  // for phones: text keeps its size, the plot shrinks
constexpr ChartSize kDetail{344, 220};

constexpr double kOpening = 0.08;  // share of a run whose losses need not be in the frame
constexpr double kCrowded = 0.6;   // ... when the rest fills less than this share of the range

constexpr const char* kStyle = R"(:root {
  color-scheme: light dark;
  --ground: #faf9f7; --panel: #ffffff; --ink: #1f2328; --soft: #5d6670; --rule: #e6e4df;
  --prompt: #e8eef4;
}
@media (prefers-color-scheme: dark) {
  :root { --ground: #14171a; --panel: #1b1f24; --ink: #e7e9ec; --soft: #a3abb5; --rule: #31363d;
    --prompt: #2a333d; }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0; background: var(--ground); color: var(--ink); overflow-wrap: anywhere;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 52rem; margin: 0 auto; padding: 3rem 1.25rem 2rem; }
h1 { margin: 0; font-size: 1.9rem; line-height: 1.2; font-weight: 650; letter-spacing: -0.015em; }
h2 { margin: 0 0 0.25rem; font-size: 1.15rem; font-weight: 650; }
h3 { margin: 0 0 0.5rem; font-size: 0.9rem; font-weight: 600; }
p { margin: 0; }
.subtitle { margin-top: 0.5rem; color: var(--soft); font-size: 1.05rem; }
.note { color: var(--soft); font-size: 0.875rem; }
.highlights { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr));
  gap: 0.75rem; margin: 1.75rem 0 0; }
.highlights div { display: flex; flex-direction: column-reverse; justify-content: flex-end;
  padding: 0.9rem 1.1rem 1rem; background: var(--panel); border: 1px solid var(--rule);
  border-radius: 10px; }
.highlights dt { color: var(--soft); font-size: 0.85rem; }
.highlights dd { margin: 0; font-size: 1.6rem; line-height: 1.3; font-weight: 600;
  letter-spacing: -0.01em; font-variant-numeric: tabular-nums; }
section { margin-top: 1.25rem; padding: 1.25rem 1.5rem 1.4rem; background: var(--panel);
  border: 1px solid var(--rule); border-radius: 10px; }
figure { margin: 1rem 0 0; }
figcaption { margin-top: 0.6rem; }
.narrow { display: none; }
table { width: 100%; margin-top: 0.75rem; border-collapse: collapse; font-size: 0.95rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: 0.45rem 0; border-top: 1px solid var(--rule); text-align: left;
  vertical-align: baseline; }
thead th { border-top: 0; color: var(--soft); font-size: 0.85rem; font-weight: 500; }
tbody tr:first-child > * { border-top: 0; }
thead + tbody tr:first-child > * { border-top: 1px solid var(--rule); }
.facts th { width: 14rem; padding-right: 1rem; color: var(--soft); font-weight: 400; }
.numbers { overflow-wrap: normal; }
.numbers th, .numbers td { padding-left: 1rem; text-align: right; font-weight: 400; }
.numbers th:first-child, .numbers td:first-child { padding-left: 0; text-align: left; }
.numbers .here > * { font-weight: 650; }
.sample { margin-top: 1rem; padding-left: 1rem; border-left: 3px solid var(--rule); }
.sample .text { font-family: ui-serif, Georgia, "Times New Roman", serif; font-size: 1.05rem;
  line-height: 1.65; white-space: pre-wrap; unicode-bidi: isolate; }
.prompt { padding: 0.1em 0.2em; border-radius: 4px; background: var(--prompt); font-weight: 650;
  -webkit-box-decoration-break: clone; box-decoration-break: clone; }
.sample .note { margin-top: 0.4rem; }
.details { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(18rem, 100%), 1fr));
  gap: 1.5rem 2rem; }
summary { cursor: pointer; font-size: 1.15rem; font-weight: 650; }
pre { margin: 0.75rem 0 0; overflow-x: auto; font: 0.8rem/1.5 ui-monospace, SFMono-Regular, Menlo,
  Consolas, "DejaVu Sans Mono", monospace; }
footer { margin-top: 1.75rem; color: var(--soft); font-size: 0.85rem; text-align: center; }
@media (max-width: 36rem) {
  main { padding: 1.75rem 0.9rem 1.5rem; }
  h1 { font-size: 1.55rem; }
  .highlights { grid-template-columns: 1fr 1fr; gap: 0.6rem; }
  .highlights div { padding: 0.7rem 0.85rem 0.8rem; }
  .highlights dd { font-size: 1.3rem; }
  section { padding: 1rem 1rem 1.1rem; }
  .facts th { width: 40%; }
  .numbers { font-size: 0.85rem; }
  .numbers th, .numbers td { padding-left: 0.5rem; }
  .wide { display: none; }
  .narrow { display: block; }
}
@media print {
  :root { --ground: #fff; --panel: #fff; --ink: #000; --soft: #444; --rule: #ccc; --prompt: #eee; }
  body { font-size: 10.5pt; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  main { max-width: none; padding: 0; }
  section { padding: 0; border: 0; }
  figure, .sample, tr { break-inside: avoid; }
  h2 { break-after: avoid; }
  pre { white-space: pre-wrap; }
}
)";

/// 131072 -> "131,072".
std::string grouped(Index count) {
  std::string digits = std::to_string(count);
  for (std::size_t at = digits.size(); at > 3;) digits.insert(at -= 3, ",");
  return digits;
}

std::string perplexity_text(double loss) {
  const double perplexity = std::exp(loss);
  return fixed(perplexity, perplexity < 100 ? 2 : 0);
}

std::string paragraph(std::string_view css, std::string_view text) {
  return text.empty() ? "" : text_of("<p class=\"", css, "\">", escaped(text), "</p>\n");
}

/// What a reader must know about the points that are missing from a chart.
std::string missing_note(const Chart& chart) {
  const std::size_t count = undrawn_points(chart);
  if (count == 0) return {};
  const bool log = chart.x.log || chart.y.log;
  return text_of(
      count, count == 1 ? " point is" : " points are",
      log ? " not a finite positive number and not drawn." : " not a finite number and not drawn.");
}

std::string joined(std::string first, std::string_view second) {
  if (!first.empty() && !second.empty()) first += ' ';
  return first.append(second);
}

/// The chart for wide and for narrow screens, and its caption.
std::string figure(const Chart& chart, std::string_view caption) {
  return text_of(
      "<figure>\n<div class=\"wide\">", chart_svg(chart, kWide), "</div>\n<div class=\"narrow\">",
      chart_svg(chart, kNarrow), "</div>\n",
      caption.empty() ? "" : "<figcaption class=\"note\">" + escaped(caption) + "</figcaption>\n",
      "</figure>\n");
}

std::string highlights(const std::vector<Fact>& facts) {
  if (facts.empty()) return {};
  std::string html = "<dl class=\"highlights\">\n";
  for (const Fact& fact : facts) {
    html +=
        text_of("<div><dt>", escaped(fact.name), "</dt><dd>", escaped(fact.value), "</dd></div>\n");
  }
  return html + "</dl>\n";
}

std::string summary(const std::vector<Fact>& facts) {
  if (facts.empty()) return {};
  std::string html = "<section>\n<h2>Summary</h2>\n<table class=\"facts\">\n<tbody>\n";
  for (const Fact& fact : facts) {
    html += text_of("<tr><th scope=\"row\">", escaped(fact.name), "</th><td>", escaped(fact.value),
                    "</td></tr>\n");
  }
  return html + "</tbody>\n</table>\n</section>\n";
}

/// Where to end the loss axis, so that the first steps, from the loss of a model that knows
/// nothing, do not press the rest of the run flat. Empty when that would show little more.
std::optional<double> loss_ceiling(const Report& report) {
  std::vector<Series> all(report.validation);
  all.push_back(report.training);
  double end = 0, low = HUGE_VAL, high = -HUGE_VAL, later_high = -HUGE_VAL;
  for (const Series& series : all) {
    for (const double x : series.x) end = std::max(end, std::isfinite(x) ? x : 0);
  }
  for (const Series& series : all) {
    for (std::size_t i = 0; i < series.x.size() && i < series.y.size(); ++i) {
      if (!std::isfinite(series.x[i]) || !std::isfinite(series.y[i])) continue;
      low = std::min(low, series.y[i]);
      high = std::max(high, series.y[i]);
      if (series.x[i] >= kOpening * end) later_high = std::max(later_high, series.y[i]);
    }
  }
  if (!(later_high - low < kCrowded * (high - low))) return {};
  return later_high;
}

std::string loss_section(const Report& report) {
  Chart chart{.title = "Loss during training",
              .x = {.label = "tokens"},
              .y = {.label = "loss, nats per token", .high = loss_ceiling(report)},
              .series = {}};
  if (!report.training.x.empty()) {
    chart.series.push_back(report.training);
    chart.series.back().style = Series::Style::averaged;
  }
  for (const Series& series : report.validation) {
    if (series.x.empty()) continue;
    chart.series.push_back(series);
    chart.series.back().style = Series::Style::marked;
  }
  if (chart.series.empty()) return {};
  std::string caption;
  if (const std::size_t reach = averaging_reach(report.training.x.size()); reach > 0) {
    caption = text_of("Pale: every logged step. Bold: the mean of ", 2 * reach + 1, " steps.");
  }
  if (chart.y.high) {
    double first = -HUGE_VAL;
    for (const Series& series : chart.series) {
      for (const double y : series.y) first = std::max(first, std::isfinite(y) ? y : first);
    }
    caption =
        joined(caption, "The beginning, up to " + fixed(first, 2) + ", lies above the frame.");
  }
  return text_of("<section>\n<h2>Loss</h2>\n", figure(chart, joined(caption, missing_note(chart))),
                 "</section>\n");
}

std::string length_table(const Report& report) {
  const bool has_tokens = std::any_of(report.lengths.begin(), report.lengths.end(),
                                      [](const LengthScore& s) { return s.tokens > 0; });
  std::string html = "<table class=\"numbers\">\n<thead><tr><th scope=\"col\">Context</th>";
  if (report.training_length > 0) html += "<th scope=\"col\">× trained</th>";
  html += "<th scope=\"col\">Loss</th><th scope=\"col\">Perplexity</th>";
  if (has_tokens) html += "<th scope=\"col\">Tokens scored</th>";
  html += "</tr></thead>\n<tbody>\n";
  for (const LengthScore& score : report.lengths) {
    const bool here = score.length == report.training_length;
    html += text_of(here ? "<tr class=\"here\">" : "<tr>", "<td>", score.length, "</td>");
    if (report.training_length > 0) {
      const double times =
          static_cast<double>(score.length) / static_cast<double>(report.training_length);
      html += "<td>" + coordinate(times, 2) + "</td>";
    }
    html +=
        text_of("<td>", fixed(score.loss, 4), "</td><td>", perplexity_text(score.loss), "</td>");
    if (has_tokens) html += text_of("<td>", score.tokens > 0 ? grouped(score.tokens) : "", "</td>");
    html += "</tr>\n";
  }
  return html + "</tbody>\n</table>\n";
}

std::string length_section(const Report& report) {
  if (report.lengths.empty()) return {};
  Series series{.name = "perplexity", .x = {}, .y = {}, .style = Series::Style::valued};
  Chart chart{.title = "Perplexity by context length",
              .x = {.label = "context length, tokens", .log = true},
              .y = {.label = "perplexity"},
              .series = {}};
  for (const LengthScore& score : report.lengths) {
    series.x.push_back(static_cast<double>(score.length));
    series.y.push_back(std::exp(score.loss));
  }
  chart.x.ticks = series.x;
  chart.series.push_back(series);
  if (report.training_length > 0) {
    chart.mark = static_cast<double>(report.training_length);
    chart.mark_label = "trained at " + std::to_string(report.training_length);
  }
  return text_of("<section>\n<h2>Perplexity by context length</h2>\n",
                 figure(chart, joined("Lower is better.", missing_note(chart))),
                 length_table(report), "</section>\n");
}

std::string sample_section(const std::vector<Sample>& samples) {
  if (samples.empty()) return {};
  std::string html =
      text_of("<section>\n<h2>", samples.size() == 1 ? "Sample" : "Samples",
              "</h2>\n<p class=\"note\">The prompt is set in bold on a tint; the model "
              "wrote the rest.</p>\n");
  for (const Sample& sample : samples) {
    html += text_of(
        "<div class=\"sample\">\n<div class=\"text\" dir=\"auto\">",
        sample.prompt.empty() ? "" : "<b class=\"prompt\">" + escaped(sample.prompt) + "</b>",
        escaped(sample.continuation), "</div>\n", paragraph("note", sample.settings), "</div>\n");
  }
  return html + "</section>\n";
}

std::string detail_section(const std::vector<Chart>& charts) {
  if (charts.empty()) return {};
  std::string html = "<section>\n<h2>Behind the curve</h2>\n<div class=\"details\">\n";
  for (const Chart& chart : charts) {
    const std::string note = missing_note(chart);
    html += text_of("<figure>\n<h3>", escaped(chart.title), "</h3>\n", chart_svg(chart, kDetail),
                    note.empty() ? "" : "<figcaption class=\"note\">" + note + "</figcaption>\n",
                    "</figure>\n");
  }
  return html + "</div>\n</section>\n";
}

std::string config_section(const std::string& config) {
  if (config.empty()) return {};
  return text_of("<section>\n<details>\n<summary>Configuration</summary>\n<pre>", escaped(config),
                 "</pre>\n</details>\n</section>\n");
}

std::string footer(const Report& report) {
  std::string text = joined("sambalm", report.version);
  if (!report.date.empty()) text += ", " + report.date;
  return text_of("<footer>Written by ", escaped(text), "</footer>\n");
}

}  // namespace

std::string report_html(const Report& report) {
  return text_of("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n",
                 "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n",
                 "<title>", escaped(report.title), "</title>\n<style>\n", kStyle, chart_style(),
                 "</style>\n</head>\n<body>\n<main>\n<header>\n<h1>", escaped(report.title),
                 "</h1>\n", paragraph("subtitle", report.subtitle), "</header>\n",
                 highlights(report.highlights), loss_section(report), length_section(report),
                 sample_section(report.samples), summary(report.summary),
                 detail_section(report.details), config_section(report.config), footer(report),
                 "</main>\n</body>\n</html>\n");
}

void write_report(const std::string& path, const Report& report) {
  write_text(path, report_html(report));
}

}  // namespace samba
