#include "eval/report.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/files.h"
#include "core/utf8.h"
#include "eval/comparison.h"
#include "eval/markup.h"

namespace samba {
namespace {

/// An element of a page, or a piece of text where the name is empty.
struct Node {
  std::string name;
  std::map<std::string, std::string> attributes;
  std::string text;
  std::vector<Node> children;

  std::string all_text() const {
    std::string found = text;
    for (const Node& child : children) found += child.all_text();
    return found;
  }
  void visit(const std::function<void(const Node&)>& see) const {
    see(*this);
    for (const Node& child : children) child.visit(see);
  }
  std::vector<const Node*> all(std::string_view wanted) const {
    std::vector<const Node*> found;
    visit([&](const Node& node) {
      if (node.name == wanted) found.push_back(&node);
    });
    return found;
  }
  bool has_class(std::string_view wanted) const {
    const auto css = attributes.find("class");
    return css != attributes.end() &&
           (" " + css->second + " ").find(" " + std::string(wanted) + " ") != std::string::npos;
  }
  std::vector<const Node*> of_class(std::string_view wanted) const {
    std::vector<const Node*> found;
    visit([&](const Node& node) {
      if (node.has_class(wanted)) found.push_back(&node);
    });
    return found;
  }
  double number(const std::string& attribute) const { return std::stod(attributes.at(attribute)); }
};

/// Reads the little of XML that a report may use; anything else is an Error.
class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Node parse() {
    constexpr std::string_view kDoctype = "<!DOCTYPE html>\n";
    if (text_.starts_with(kDoctype)) text_.remove_prefix(kDoctype.size());
    Node root = element();
    if (text_.find_first_not_of(" \n") != std::string_view::npos) fail("text behind the root");
    return root;
  }

 private:
  std::string_view until(std::string_view mark) {
    const std::size_t end = text_.find(mark);
    if (end == std::string_view::npos) fail("no ", mark, " before the end");
    const std::string_view piece = text_.substr(0, end);
    text_.remove_prefix(end + mark.size());
    return piece;
  }

  static std::string decoded(std::string_view raw) {
    static const std::map<std::string_view, char> kEntities{
        {"amp", '&'}, {"lt", '<'}, {"gt", '>'}, {"quot", '"'}, {"#39", '\''}};
    std::string plain;
    for (std::size_t at = 0; at < raw.size(); ++at) {
      const auto byte = static_cast<unsigned char>(raw[at]);
      if (byte == '<') fail("< in text");
      if (byte < 0x20 && byte != '\n' && byte != '\t') fail("control character ", int{byte});
      if (byte != '&') {
        plain += raw[at];
        continue;
      }
      const std::size_t end = raw.find(';', at);
      const auto entity = kEntities.find(raw.substr(at + 1, end - at - 1));
      if (entity == kEntities.end()) fail("entity at ", raw.substr(at, 12));
      plain += entity->second;
      at = end;
    }
    for (std::size_t at = 0; at < plain.size();) {
      const std::size_t first = at;
      const bool bad = next_code_point(plain, at) == kReplacement;
      if (bad && plain.substr(first, at - first) != "\uFFFD") fail("text is not UTF-8");
    }
    return plain;
  }

  Node element() {
    if (!text_.starts_with("<")) fail("expected an element at ", text_.substr(0, 20));
    text_.remove_prefix(1);
    Node node;
    const std::size_t end = text_.find_first_of(" />\n");
    node.name = text_.substr(0, end);
    text_.remove_prefix(end);
    for (;;) {
      text_.remove_prefix(text_.find_first_not_of(" \n"));
      if (text_.starts_with("/>")) {
        text_.remove_prefix(2);
        return node;
      }
      if (text_.starts_with(">")) break;
      const std::string name(until("=\""));
      if (name.find_first_of(" <>\"'") != std::string::npos) fail("attribute ", name);
      if (!node.attributes.emplace(name, decoded(until("\""))).second) fail("twice ", name);
    }
    text_.remove_prefix(1);
    for (;;) {
      if (const std::size_t next = text_.find('<'); next > 0) {
        if (next == std::string_view::npos) fail("no </", node.name, ">");
        Node piece;
        piece.text = decoded(text_.substr(0, next));
        node.children.push_back(piece);
        text_.remove_prefix(next);
      }
      if (!text_.starts_with("</")) {
        node.children.push_back(element());
        continue;
      }
      text_.remove_prefix(2);
      if (const std::string_view name = until(">"); name != node.name)
        fail("found </", name, ">; expected </", node.name, ">");
      return node;
    }
  }

  std::string_view text_;
};

Node parsed(const std::string& html) {
  return Parser(html).parse();
}

/// The points that a path goes to, after M and L.
std::vector<std::pair<double, double>> points_of(const std::string& path) {
  std::vector<std::pair<double, double>> points;
  for (std::size_t at = 0; at < path.size(); ++at) {
    if (path[at] != 'M' && path[at] != 'L') continue;
    std::size_t used = 0;
    const double x = std::stod(path.substr(at + 1), &used);
    points.emplace_back(x, std::stod(path.substr(at + 1 + used)));
  }
  return points;
}

Series ramp(std::size_t points, Series::Style style = Series::Style::line) {
  Series series{.name = "ramp", .x = {}, .y = {}, .style = style};
  for (std::size_t i = 0; i < points; ++i) {
    series.x.push_back(static_cast<double>(i));
    series.y.push_back(2 + std::sin(static_cast<double>(i)));
  }
  return series;
}

Chart chart_of(std::vector<Series> series) {
  return {
      .title = "a chart", .x = {.label = "x"}, .y = {.label = "y"}, .series = std::move(series)};
}

Node drawn(const Chart& chart, ChartSize size = {}) {
  return parsed(chart_svg(chart, size));
}

/// A report with something in every place.
Report full_report() {
  Report report{.title = "A run",
                .subtitle = "what was done",
                .highlights = {{"Loss", "2.18"}},
                .summary = {{"Model", "tiny"}, {"Tokens", "4,194,304"}},
                .training = ramp(200),
                .validation = {ramp(5)},
                .lengths = {{256, 2.2, 1000}, {512, 2.1, 131072}, {1024, 2.0, 1000}},
                .training_length = 512,
                .samples = {{"The prompt", " and the rest.", "greedy"}},
                .details = {chart_of({ramp(30)})},
                .config = "{\"name\": \"tiny\"}",
                .version = "1.2.3",
                .date = "2030-01-02"};
  report.training.name = "training";
  report.validation[0].name = "validation";
  return report;
}

TEST(Report, IsWellFormedAndComplete) {
  const Node page = parsed(report_html(full_report()));
  EXPECT_EQ(page.name, "html");
  EXPECT_EQ(page.all("h1").at(0)->all_text(), "A run");
  std::vector<std::string> sections;
  for (const Node* heading : page.all("h2")) sections.push_back(heading->all_text());
  EXPECT_EQ(sections, (std::vector<std::string>{"Loss", "Perplexity by context length", "Sample",
                                                "Summary", "Behind the curve"}));
  EXPECT_EQ(page.all("summary").at(0)->all_text(), "Configuration");
  EXPECT_EQ(page.all("pre").at(0)->all_text(), "{\"name\": \"tiny\"}");
  EXPECT_EQ(page.all("footer").at(0)->all_text(), "Written by sambalm 1.2.3, 2030-01-02");
  EXPECT_EQ(page.of_class("prompt").at(0)->all_text(), "The prompt");
  EXPECT_EQ(page.of_class("text").at(0)->all_text(), "The prompt and the rest.");
}

TEST(Report, NeedsNothingFromElsewhere) {
  const std::string html = report_html(full_report());
  for (const char* outside :
       {"http:", "https:", "src=", "href=", "url(", "@import", "<script", "<link"})
    EXPECT_EQ(html.find(outside), std::string::npos) << outside;
}

TEST(Report, FitsPhonesDarkScreensAndPaper) {
  const std::string html = report_html(full_report());
  EXPECT_NE(html.find("name=\"viewport\" content=\"width=device-width"), std::string::npos);
  EXPECT_NE(html.find("@media (prefers-color-scheme: dark)"), std::string::npos);
  EXPECT_NE(html.find("@media print"), std::string::npos);
  const Node page = parsed(html);
  EXPECT_EQ(page.of_class("wide").size(), page.of_class("narrow").size());
}

TEST(Report, LeavesOutWhatIsEmpty) {
  const Node page = parsed(report_html(Report{.title = "nothing yet"}));
  EXPECT_EQ(page.all("section").size(), 0u);
  EXPECT_EQ(page.all("svg").size(), 0u);
  EXPECT_EQ(page.all("h1").at(0)->all_text(), "nothing yet");
}

TEST(Report, TakesAnyBytesAsText) {
  std::string every;
  for (int byte = 0; byte < 256; ++byte) every += static_cast<char>(byte);
  every += "</div><script>alert('1')</script>&amp; ]]> <!-- \" ' \xF0\x9F";
  Report report = full_report();
  report.title = report.subtitle = report.config = report.version = report.date = every;
  report.highlights = report.summary = {{every, every}};
  report.training.name = report.validation[0].name = every;
  report.samples = {{every, every, every}};
  report.details[0].title = report.details[0].x.label = report.details[0].y.label = every;
  report.details[0].mark = 3;
  report.details[0].mark_label = every;
  const Node page = parsed(report_html(report));
  EXPECT_EQ(page.all("script").size(), 0u);
  const std::string shown = page.of_class("prompt").at(0)->all_text();
  EXPECT_NE(shown.find("\t\n"), std::string::npos);
  EXPECT_NE(shown.find("␀␁"), std::string::npos);
  EXPECT_NE(shown.find("</div><script>alert('1')</script>&amp; ]]> <!-- \" ' \uFFFD"),
            std::string::npos);
}

TEST(Report, LeavesGoodTextAsItIs) {
  const std::string text = "naïve 語彙 🦊\n\t— “quoted” \u202Eturned";
  EXPECT_EQ(escaped(text), text);
  EXPECT_EQ(escaped("a\rb\x7F\xC2\x85\xEF\xBF\xBE"), "a␍b␡\uFFFD\uFFFD");
}

TEST(Report, SaysWhichPointsAreMissing) {
  Report report = full_report();
  report.training.y[7] = NAN;
  report.training.y[8] = INFINITY;
  report.validation[0].y[2] = -INFINITY;
  const std::string html = report_html(report);
  EXPECT_NE(
      parsed(html).all("figcaption").at(0)->all_text().find("3 points are not a finite number"),
      std::string::npos);
}

TEST(Report, ShowsALossThatIsNotANumber) {
  Report report = full_report();
  report.lengths = {{512, NAN, 0}, {1024, INFINITY, 0}, {2048, 800, 0}};
  const Node page = parsed(report_html(report));
  const std::string table = page.of_class("numbers").at(0)->all_text();
  EXPECT_NE(table.find("not a number"), std::string::npos);
  EXPECT_NE(table.find("∞"), std::string::npos);
}

TEST(Report, MarksTheTrainingLength) {
  const Node page = parsed(report_html(full_report()));
  const auto here = page.of_class("here");
  ASSERT_EQ(here.size(), 1u);
  EXPECT_EQ(here[0]->all_text(), "51212.10008.17131,072");
  EXPECT_EQ(page.of_class("pointer").size(), 2u);  // in the wide and in the narrow chart
}

TEST(Report, KeepsTheFirstStepsFromPressingTheRestFlat) {
  Report report{.title = "steep"};
  for (int i = 1; i <= 200; ++i) {
    report.training.x.push_back(i);
    report.training.y.push_back(2 + 8 * std::exp(-i / 4.0));
  }
  const Node page = parsed(report_html(report));
  EXPECT_NE(page.all("figcaption").at(0)->all_text().find("up to 8.23, lies above the frame"),
            std::string::npos);
  for (const Node* tick : page.of_class("tick")) EXPECT_NE(tick->all_text(), "8");
  // A run that falls evenly keeps its beginning.
  for (int i = 1; i <= 200; ++i) report.training.y[static_cast<std::size_t>(i - 1)] = 10 - i / 50.0;
  EXPECT_EQ(report_html(report).find("above the frame"), std::string::npos);
}

TEST(Report, IsWrittenWholeOrNotAtAll) {
  std::string folder = (std::filesystem::temp_directory_path() / "sambalm-report-XXXXXX").string();
  ASSERT_NE(::mkdtemp(folder.data()), nullptr);
  const std::string path = folder + "/report.html";
  write_report(path, full_report());
  EXPECT_EQ(read_text(path), report_html(full_report()));
  EXPECT_THROW(write_report(folder + "/none/report.html", full_report()), Error);
  std::filesystem::remove_all(folder);
}

/// Eight runs that differ in their losses.
std::vector<Report> several_reports() {
  std::vector<Report> reports;
  for (int i = 0; i < 8; ++i) {
    Report report = full_report();
    report.title = "run " + std::to_string(i) + " <&>";
    report.size = {2'000'000 + i, 1 << 20, 1000.0 + i};
    for (LengthScore& score : report.lengths) score.loss += 0.01 * ((i + 3) % 8);
    reports.push_back(report);
  }
  return reports;
}

TEST(Comparison, SetsModelsSideBySide) {
  const Node page =
      parsed(comparison_html(several_reports(), {{512, std::log(400.)}, {1024, 6}, {2048, 6}}));
  EXPECT_EQ(page.all("h1").at(0)->all_text(), "8 models side by side");
  ASSERT_EQ(page.all("tbody").size(), 1u);
  const std::vector<const Node*> rows = page.all("tbody").at(0)->all("tr");
  ASSERT_EQ(rows.size(), 9u);
  EXPECT_EQ(rows[8]->all("td").at(5)->all_text(), "400");
  EXPECT_EQ(rows[3]->children.at(0).all_text(), "run 3 <&>");
  // The sixth has the least loss at every length.
  for (std::size_t i = 0; i < rows.size(); ++i)
    EXPECT_EQ(rows[i]->all("b").size(), i == 5 ? 3u : 0u) << i;
  // Every model in the legend of both charts, on wide and on narrow screens; the last two curves of
  // each have colours that come round again, and are dashed.
  EXPECT_EQ(page.of_class("name").size(), 8u * 4);
  for (const Node* svg : page.all("svg")) {
    std::size_t dashed = 0;
    for (const Node* curve : svg->of_class("curve"))
      dashed += curve->name == "path" && curve->has_class("again");
    EXPECT_EQ(dashed, 2u);
  }
}

TEST(Comparison, RefusesModelsThatWereMeasuredOtherwise) {
  std::vector<Report> reports = several_reports();
  reports[1].lengths.pop_back();
  EXPECT_THROW(comparison_html(reports, {}), Error);
  reports = several_reports();
  ++reports[1].lengths.back().length;
  EXPECT_THROW(comparison_html(reports, {}), Error);
  EXPECT_THROW(comparison_html({}, {}), Error);
}

TEST(Comparison, MarksTheTrainingLengthThatAllShare) {
  std::vector<Report> reports = several_reports();
  EXPECT_NE(comparison_html(reports, {}).find("trained at"), std::string::npos);
  reports[1].training_length *= 2;
  EXPECT_EQ(comparison_html(reports, {}).find("trained at"), std::string::npos);
}

TEST(Chart, DrawsInsideItself) {
  for (const ChartSize size : {ChartSize{720, 360}, ChartSize{350, 300}, ChartSize{344, 220}}) {
    for (const bool log : {false, true}) {
      Chart chart = chart_of({ramp(50), ramp(7, Series::Style::valued)});
      chart.x.log = chart.y.log = log;
      chart.mark = 4;
      chart.mark_label = "a label by the mark";
      const Node svg = drawn(chart, size);
      for (const Node* path : svg.of_class("curve")) {
        if (path->name != "path") continue;
        for (const auto& [x, y] : points_of(path->attributes.at("d"))) {
          EXPECT_TRUE(x >= 0 && x <= size.width) << x;
          EXPECT_TRUE(y >= 0 && y <= size.height) << y;
        }
      }
      for (const Node* text : svg.all("text")) {
        EXPECT_TRUE(text->number("x") >= 0 && text->number("x") <= size.width) << text->all_text();
        EXPECT_TRUE(text->number("y") >= 10 && text->number("y") <= size.height)
            << text->all_text();
      }
    }
  }
}

TEST(Chart, PutsPointsWhereTheAxesSay) {
  Chart chart = chart_of({{.name = "line", .x = {1, 10, 100}, .y = {0, 5, 10}}});
  chart.x.log = true;
  const Node svg = drawn(chart);
  const auto points = points_of(svg.of_class("curve").at(0)->attributes.at("d"));
  ASSERT_EQ(points.size(), 3u);
  EXPECT_NEAR(points[1].first - points[0].first, points[2].first - points[1].first, 0.11);
  EXPECT_NEAR(points[1].second - points[0].second, points[2].second - points[1].second, 0.11);
  // The tick of a value stands at the height of a point of that value.
  bool found = false;
  for (const Node* tick : svg.of_class("tick")) {
    if (tick->all_text() != "10" || tick->attributes.at("text-anchor") != "end") continue;
    EXPECT_NEAR(tick->number("y") - 4.5, points[2].second, 0.11);
    found = true;
  }
  EXPECT_TRUE(found);
}

TEST(Chart, SkipsWhatCannotBeDrawn) {
  Chart chart = chart_of({ramp(9)});
  chart.series[0].y[3] = NAN;
  chart.series[0].y[6] = INFINITY;
  chart.series[0].x[8] = NAN;
  EXPECT_EQ(undrawn_points(chart), 3u);
  const std::string svg = chart_svg(chart, {});
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(svg.find("inf"), std::string::npos);
  const std::string path = parsed(svg).of_class("curve").at(0)->attributes.at("d");
  EXPECT_EQ(points_of(path).size(), 6u);
  EXPECT_EQ(std::count(path.begin(), path.end(), 'M'), 3) << path;  // three pieces between two gaps
  chart.x.log = true;
  EXPECT_EQ(undrawn_points(chart), 4u);  // x = 0 too
}

TEST(Chart, SaysThatThereIsNoData) {
  for (const auto& series : {std::vector<Series>{},
                             {Series{.name = "empty", .x = {}, .y = {}}},
                             {Series{.name = "unknown", .x = {1, 2}, .y = {NAN, NAN}}}}) {
    for (const bool log : {false, true}) {
      Chart chart = chart_of(series);
      chart.x.log = chart.y.log = log;
      chart.mark = 3;
      EXPECT_EQ(drawn(chart).of_class("note").at(0)->all_text(), "no data");
    }
  }
}

TEST(Chart, DrawsOnePoint) {
  for (const double value : {0.0, 3.0, -3.0, 1e-300, 1e99}) {
    const Node svg = drawn(chart_of({{.name = "one", .x = {value}, .y = {value}}}));
    EXPECT_EQ(svg.of_class("mark").size(), 1u);
    const auto points = points_of(svg.of_class("mark").at(0)->attributes.at("d"));
    ASSERT_EQ(points.size(), 1u) << value;
    EXPECT_TRUE(points[0].second > 0 && points[0].second < 360) << value;
  }
}

TEST(Chart, EndsWithAnyNumbers) {
  const std::vector<double> hard{1.7e308,  -1.7e308, 1e300,  -1e300,    1e99,
                                 -1e99,    1e-99,    1e-308, 5e-324,    1e16,
                                 1e16 + 2, 0,        -0.0,   1 + 1e-15, 1};
  for (const bool log : {false, true}) {
    for (const double a : hard) {
      for (const double b : hard) {
        Chart chart = chart_of({{.name = "two", .x = {a, b}, .y = {b, a}}});
        chart.x.log = chart.y.log = log;
        const std::string svg = chart_svg(chart, {});
        EXPECT_EQ(svg.find("nan"), std::string::npos) << a << " " << b;
        EXPECT_EQ(svg.find("inf"), std::string::npos) << a << " " << b;
        EXPECT_EQ(svg.find("not a number"), std::string::npos) << a << " " << b;
        EXPECT_LT(svg.size(), 20000u) << a << " " << b;
        parsed(svg);
      }
    }
  }
}

TEST(Chart, RefusesASeriesWithoutAnXForEachY) {
  EXPECT_THROW(chart_svg(chart_of({{.name = "uneven", .x = {1, 2}, .y = {1}}}), {}), Error);
}

TEST(Chart, KeepsPeaksOfLongSeriesInFewPoints) {
  Series series{.name = "long", .x = {}, .y = {}};
  for (int i = 0; i < 200000; ++i) {
    series.x.push_back(i);
    series.y.push_back(i == 123456 ? 50 : i % 7);
  }
  const std::string svg = chart_svg(chart_of({series}), {});
  EXPECT_LT(svg.size(), 100000u);
  const auto points = points_of(parsed(svg).of_class("curve").at(0)->attributes.at("d"));
  double top = 1e9;
  for (const auto& [x, y] : points) top = std::min(top, y);
  EXPECT_LT(top, 60);  // the peak is near the top of the plot
}

TEST(Chart, NamesCurvesWhenThereAreSeveral) {
  EXPECT_EQ(drawn(chart_of({ramp(5)})).of_class("name").size(), 0u);
  const Node svg = drawn(chart_of({ramp(5), ramp(6)}));
  EXPECT_EQ(svg.of_class("name").size(), 2u);
  EXPECT_FALSE(svg.of_class("s1").empty());
  EXPECT_FALSE(svg.of_class("s2").empty());
}

TEST(Chart, AveragesWhatIsPlentiful) {
  EXPECT_EQ(drawn(chart_of({ramp(20, Series::Style::averaged)})).of_class("faint").size(), 0u);
  EXPECT_EQ(drawn(chart_of({ramp(200, Series::Style::averaged)})).of_class("faint").size(), 1u);
}

TEST(Chart, SmoothsWithoutLookingToOneSide) {
  EXPECT_EQ(smoothed({0, 3, 6, 0, 0}, 1), (std::vector<double>{0, 3, 3, 2, 0}));
  EXPECT_EQ(smoothed({1, 2, 3, 4, 5, 6}, 9), (std::vector<double>{1, 2, 3, 4, 5, 6}));
  const std::vector<double> gap = smoothed({1, NAN, 3}, 1);
  EXPECT_TRUE(std::isnan(gap[1]));
  EXPECT_TRUE(smoothed({}, 3).empty());
}

TEST(Chart, TicksAreRoundNumbers) {
  using Ticks = std::vector<double>;
  EXPECT_EQ(round_ticks(0, 10, false, 5), (Ticks{0, 2, 4, 6, 8, 10}));
  EXPECT_EQ(round_ticks(-1, 1, false, 4), (Ticks{-1, -0.5, 0, 0.5, 1}));
  EXPECT_EQ(round_ticks(3, 3, false, 4), (Ticks{3}));
  EXPECT_EQ(round_ticks(1e16, 1e16 + 2, false, 4), (Ticks{1e16}));
  EXPECT_EQ(round_ticks(1, 1000, true, 4), (Ticks{1, 10, 100, 1000}));
  EXPECT_EQ(round_ticks(3, 60, true, 4), (Ticks{5, 10, 20, 50}));
  EXPECT_LE(round_ticks(1e-30, 1e30, true, 5).size(), 6u);
}

}  // namespace
}  // namespace samba
