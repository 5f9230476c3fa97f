#include "core/table.h"

#include <gtest/gtest.h>

#include <sstream>

#include "core/error.h"

namespace samba {
namespace {

std::string printed(const Table& table) {
  std::ostringstream out;
  table.print(out);
  return out.str();
}

TEST(Table, AlignsTextLeftAndNumbersRight) {
  Table table({"tensor", "error", "bound"});
  table.add({"logits", "1.2e-06", "2e-4"});
  table.add({"grad.embedding", "12", "-"});
  EXPECT_EQ(printed(table),
            "tensor            error  bound\n"
            "--------------  -------  -----\n"
            "logits          1.2e-06   2e-4\n"
            "grad.embedding       12      -\n");
}

TEST(Table, AlignsWideAndAccentedText) {
  Table table({"name", "n"});
  table.add({"語彙", "1"});
  table.add({"café", "-20"});
  EXPECT_EQ(printed(table),
            "name    n\n"
            "----  ---\n"
            "語彙    1\n"
            "café  -20\n");
}

TEST(Table, LeavesNoSpacesAtTheEndOfALine) {
  Table table({"layer", "kind"});
  table.add({"a", ""});
  table.add({"bb", "attention"});
  EXPECT_EQ(printed(table),
            "layer  kind\n"
            "-----  ---------\n"
            "a\n"
            "bb     attention\n");
}

TEST(Table, PrintsAHeadingWithoutRows) {
  EXPECT_EQ(printed(Table({"name", "value"})), "name  value\n----  -----\n");
}

TEST(Table, KeepsACellOnItsLine) {
  Table table({"file"});
  table.add({"a\nb\x1b[2J"});
  EXPECT_EQ(printed(table), "file\n-------\na b [2J\n");
}

TEST(Table, RefusesARowOfAnotherLength) {
  Table table({"name", "value"});
  EXPECT_THROW(table.add({"only one"}), Error);
}

}  // namespace
}  // namespace samba
