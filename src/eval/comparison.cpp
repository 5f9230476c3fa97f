#include "eval/comparison.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/files.h"
#include "core/human.h"
#include "eval/markup.h"
#include "eval/page.h"

namespace samba {
namespace {

constexpr double kOpening = 0.1;  // share of a run that the frame of the losses leaves out

std::string perplexity(double loss) {
  return fixed(std::exp(loss), std::exp(loss) < 100 ? 2 : 0);
}

/// The mean of the last tenth of a run.
double late_loss(const Series& training) {
  const std::size_t count = training.y.size(), first = count - (count + 9) / 10;
  double sum = 0;
  for (std::size_t i = first; i < count; ++i) sum += training.y[i];
  return count == 0 ? NAN : sum / static_cast<double>(count - first);
}

/// The row of each length whose perplexity is the least.
std::vector<std::size_t> best_of(const std::vector<Report>& reports) {
  std::vector<std::size_t> best;
  for (std::size_t k = 0; k < reports.front().lengths.size(); ++k) {
    std::size_t least = 0;
    for (std::size_t i = 1; i < reports.size(); ++i)
      if (reports[i].lengths[k].loss < reports[least].lengths[k].loss) least = i;
    best.push_back(least);
  }
  return best;
}

std::string table(const std::vector<Report>& reports, const std::vector<LengthLoss>& unigram) {
  std::string html =
      "<section>\n<h2>Side by side</h2>\n<div class=\"scroll\"><table "
      "class=\"numbers\">\n<thead><tr>"
      "<th scope=\"col\">Model</th><th scope=\"col\">Parameters</th>"
      "<th scope=\"col\">State</th><th scope=\"col\">Tokens/s</th>"
      "<th scope=\"col\">Training loss</th>";
  const char* measure = "Perplexity at ";
  for (const LengthScore& score : reports.front().lengths) {
    html += text_of("<th scope=\"col\">", measure, score.length, "</th>");
    measure = "at ";
  }
  html += "</tr></thead>\n<tbody>\n";
  const std::vector<std::size_t> best = best_of(reports);
  for (std::size_t i = 0; i < reports.size(); ++i) {
    const Report& r = reports[i];
    html +=
        text_of("<tr><td>", escaped(r.title), "</td><td>",
                human_count(static_cast<double>(r.size.parameters)), "</td><td>",
                human_bytes(static_cast<double>(r.size.state_bytes)), "</td><td>",
                r.size.tokens_per_second > 0 ? human_count(r.size.tokens_per_second) : "",
                "</td><td>", r.training.y.empty() ? "" : fixed(late_loss(r.training), 3), "</td>");
    for (std::size_t k = 0; k < r.lengths.size(); ++k)
      html += text_of("<td>", best[k] == i ? "<b>" : "", perplexity(r.lengths[k].loss),
                      best[k] == i ? "</b>" : "", "</td>");
    html += "</tr>\n";
  }
  if (!unigram.empty()) {
    html += "<tr><td>Token frequencies</td><td></td><td></td><td></td><td></td>";
    for (const LengthLoss& l : unigram) html += text_of("<td>", perplexity(l.loss), "</td>");
    html += "</tr>\n";
  }
  return html +
         "</tbody>\n</table></div>\n<p class=\"note\">Token frequencies: what can be known of a "
         "token "
         "without its context. State: bytes that a sequence carries at its "
         "training length. Tokens/s: of training, the median step. Training loss: the mean of the "
         "last tenth of the steps. The best perplexity of each length is bold.</p>\n</section>\n";
}

std::string loss_section(const std::vector<Report>& reports) {
  Chart chart{.title = "Loss during training",
              .x = {.label = "tokens"},
              .y = {.label = "loss, nats per token"},
              .series = {}};
  double high = -HUGE_VAL, end = 0;
  std::size_t reach = 0;
  for (const Report& r : reports) {
    if (r.training.x.empty()) continue;
    reach = averaging_reach(r.training.x.size());
    Series series{.name = r.title, .x = r.training.x, .y = smoothed(r.training.y, reach)};
    end = std::max(end, series.x.back());
    chart.series.push_back(std::move(series));
  }
  if (chart.series.empty()) return {};
  for (const Series& series : chart.series)
    for (std::size_t i = 0; i < series.x.size(); ++i)
      if (series.x[i] >= kOpening * end && std::isfinite(series.y[i]))
        high = std::max(high, series.y[i]);
  if (std::isfinite(high)) chart.y.high = high;
  const std::string caption =
      reach > 0
          ? text_of("Means of ", 2 * reach + 1, " steps. The first tenth may lie above the frame.")
          : "";
  return text_of("<section>\n<h2>Loss</h2>\n", figure(chart, joined(caption, missing_note(chart))),
                 "</section>\n");
}

std::string length_section(const std::vector<Report>& reports) {
  Chart chart{.title = "Perplexity by context length",
              .x = {.label = "context length, tokens", .log = true},
              .y = {.label = "perplexity"},
              .series = {}};
  double least = HUGE_VAL, high = 0, learnt = 0;
  for (const Report& r : reports) {
    Series series{.name = r.title, .x = {}, .y = {}, .style = Series::Style::marked};
    for (const LengthScore& score : r.lengths) {
      series.x.push_back(static_cast<double>(score.length));
      series.y.push_back(std::exp(score.loss));
      least = std::min(least, series.y.back());
      high = std::max(high, series.y.back());
      if (score.length <= r.training_length) learnt = std::max(learnt, series.y.back());
    }
    chart.x.ticks = series.x;
    chart.series.push_back(std::move(series));
  }
  // A model that falls apart beyond its training length must not press the others flat.
  constexpr double kTall = 2, kRoom = 1.05;
  const double frame = std::max(kTall * least, kRoom * learnt);
  std::string caption = "Lower is better.";
  if (high > frame) {
    chart.y.high = frame;
    caption += " Curves that leave the frame go on in the table.";
  }
  // The chart has room for one mark: models that were trained at several lengths have none.
  const Index trained = reports.front().training_length;
  const bool together = std::all_of(reports.begin(), reports.end(), [trained](const Report& r) {
    return r.training_length == trained;
  });
  if (trained > 0 && together) {
    chart.mark = static_cast<double>(trained);
    chart.mark_label = "trained at " + std::to_string(trained);
  }
  return text_of("<section>\n<h2>Perplexity by context length</h2>\n",
                 figure(chart, joined(caption, missing_note(chart))), "</section>\n");
}

}  // namespace

std::string comparison_html(const std::vector<Report>& reports,
                            const std::vector<LengthLoss>& unigram) {
  if (reports.empty()) fail("comparison: expected at least one model, found none");
  for (const Report& r : reports)
    if (!std::ranges::equal(r.lengths, reports.front().lengths, {}, &LengthScore::length,
                            &LengthScore::length))
      fail("comparison: expected models that were measured at the same lengths; those of ", r.title,
           " are not those of ", reports.front().title);
  return page_html({text_of(reports.size(), " models side by side"),
                    "How they learnt, and how well they predict text at and beyond their training "
                    "length.",
                    reports.front().version, reports.front().date},
                   table(reports, unigram) + loss_section(reports) + length_section(reports));
}

void write_comparison(const std::string& path, const std::vector<Report>& reports,
                      const std::vector<LengthLoss>& unigram) {
  write_text(path, comparison_html(reports, unigram));
}

}  // namespace samba
