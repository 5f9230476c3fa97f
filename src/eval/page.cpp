#include "eval/page.h"

#include "core/error.h"
#include "eval/markup.h"

namespace samba {
namespace {

constexpr ChartSize kWide{720, 360};
constexpr ChartSize kNarrow{350, 300};  // for phones: text keeps its size, the plot shrinks

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
.numbers { overflow-wrap: normal; font-size: 0.9rem; }
.scroll { overflow-x: auto; }
.scroll tr > :first-child { position: sticky; left: 0; background: var(--panel); }
.numbers th, .numbers td { padding-left: 0.8rem; text-align: right; font-weight: 400; }
.numbers td { white-space: nowrap; }
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

std::string footer(const PageHead& head) {
  std::string text = joined("sambalm", head.version);
  if (!head.date.empty()) text += ", " + head.date;
  return text_of("<footer>Written by ", escaped(text), "</footer>\n");
}

}  // namespace

std::string paragraph(std::string_view css, std::string_view text) {
  return text.empty() ? "" : text_of("<p class=\"", css, "\">", escaped(text), "</p>\n");
}

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

std::string figure(const Chart& chart, std::string_view caption) {
  return text_of(
      "<figure>\n<div class=\"wide\">", chart_svg(chart, kWide), "</div>\n<div class=\"narrow\">",
      chart_svg(chart, kNarrow), "</div>\n",
      caption.empty() ? "" : "<figcaption class=\"note\">" + escaped(caption) + "</figcaption>\n",
      "</figure>\n");
}

std::string page_html(const PageHead& head, std::string_view body) {
  return text_of("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n",
                 "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n",
                 "<title>", escaped(head.title), "</title>\n<style>\n", kStyle, chart_style(),
                 "</style>\n</head>\n<body>\n<main>\n<header>\n<h1>", escaped(head.title),
                 "</h1>\n", paragraph("subtitle", head.subtitle), "</header>\n", body, footer(head),
                 "</main>\n</body>\n</html>\n");
}

}  // namespace samba
