#include "core/table.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "core/terminal.h"

namespace samba {
namespace {

bool starts_like_a_number(std::string_view cell) {
  if (cell == "nan" || cell == "inf" || cell == "-inf") return true;
  const std::size_t digit = cell.find_first_not_of("+-.");
  return digit < 2 && cell[digit] >= '0' && cell[digit] <= '9';
}

bool says_nothing(std::string_view cell) {
  return cell.empty() || cell == "-";
}

}  // namespace

Table::Table(std::vector<std::string> heading) {
  rows_.push_back(std::move(heading));
}

void Table::add(std::vector<std::string> cells) {
  if (cells.size() != rows_[0].size())
    fail("table: found ", cells.size(), " cells; expected ", rows_[0].size());
  for (std::string& cell : cells) cell = printable(cell, true);
  rows_.push_back(std::move(cells));
}

void Table::print(std::ostream& out) const {
  struct Column {
    int width = 0;
    bool right = true;
  };
  std::vector<Column> columns(rows_[0].size());
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    for (std::size_t c = 0; c < columns.size(); ++c) {
      const std::string& cell = rows_[r][c];
      columns[c].width = std::max(columns[c].width, display_width(cell));
      if (r > 0 && !says_nothing(cell) && !starts_like_a_number(cell)) columns[c].right = false;
    }
  }
  const auto print_row = [&](const std::vector<std::string>& row) {
    std::string line;
    for (std::size_t c = 0; c < row.size(); ++c) {
      const std::string space(static_cast<std::size_t>(columns[c].width - display_width(row[c])),
                              ' ');
      if (c > 0) line += "  ";
      line += columns[c].right ? space + row[c] : row[c] + space;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out << line << '\n';
  };
  print_row(rows_[0]);
  std::vector<std::string> rule;
  for (const Column& column : columns)
    rule.emplace_back(static_cast<std::size_t>(column.width), '-');
  print_row(rule);
  for (std::size_t r = 1; r < rows_.size(); ++r) print_row(rows_[r]);
}

}  // namespace samba
