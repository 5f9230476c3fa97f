#pragma once

#include <ostream>
#include <string>
#include <vector>

namespace samba {

/// Rows of text under a heading, printed in aligned columns. A column whose cells all start like
/// numbers is aligned to the right, every other one to the left.
class Table {
 public:
  explicit Table(std::vector<std::string> heading);
  /// One cell per column; an Error otherwise.
  void add(std::vector<std::string> cells);
  /// The heading, a rule and the rows. No line ends in spaces. Control characters become spaces.
  void print(std::ostream& out) const;

 private:
  std::vector<std::vector<std::string>> rows_;  ///< the first is the heading
};

}  // namespace samba
