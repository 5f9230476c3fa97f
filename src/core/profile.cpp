#include "core/profile.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <mutex>
#include <string_view>
#include <vector>

namespace samba {
namespace {

struct Row {
  long calls = 0;
  double seconds = 0;
};

std::mutex mutex;
std::map<std::string_view, Row> rows;

}  // namespace

Profile::~Profile() {
  const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start_;
  const std::lock_guard lock(mutex);
  Row& row = rows[name_];
  ++row.calls;
  row.seconds += spent.count();
}

std::string Profile::table() {
  const std::lock_guard lock(mutex);
  std::vector<std::pair<std::string_view, Row>> sorted(rows.begin(), rows.end());
  std::sort(sorted.begin(), sorted.end(),
            [](const auto& a, const auto& b) { return a.second.seconds > b.second.seconds; });
  double total = 0;
  for (const auto& [name, row] : sorted) total += row.seconds;
  std::string text;
  for (const auto& [name, row] : sorted) {
    char line[128];
    std::snprintf(line, sizeof(line), "%-28.*s %9ld calls %11.2f ms %6.1f%%\n",
                  static_cast<int>(name.size()), name.data(), row.calls, row.seconds * 1e3,
                  100 * row.seconds / total);
    text += line;
  }
  return text;
}

void Profile::clear() {
  const std::lock_guard lock(mutex);
  rows.clear();
}

}  // namespace samba
