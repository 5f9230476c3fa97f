#include "eval/report.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/files.h"
#include "eval/markup.h"
#include "eval/page.h"

namespace samba {
namespace {

constexpr ChartSize kDetail{344, 220};

constexpr double kOpening = 0.08;  // share of a run whose losses need not be in the frame
constexpr double kCrowded = 0.6;   // ... when the rest fills less than this share of the range

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

}  // namespace

std::string report_html(const Report& report) {
  return page_html({report.title, report.subtitle, report.version, report.date},
                   highlights(report.highlights) + loss_section(report) + length_section(report) +
                       sample_section(report.samples) + summary(report.summary) +
                       detail_section(report.details) + config_section(report.config));
}

void write_report(const std::string& path, const Report& report) {
  write_text(path, report_html(report));
}

}  // namespace samba
