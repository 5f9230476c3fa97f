#include "generate/stop_text.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace samba::test {
namespace {

struct Shown {
  std::string text;
  bool stopped;
  bool operator==(const Shown&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Shown& shown) {
  return out << '"' << shown.text << "\" " << shown.stopped;
}

/// Everything that is shown of text that comes in pieces.
Shown show(const std::vector<std::string>& stops, const std::vector<std::string>& pieces) {
  StopText stop(stops);
  std::string shown;
  for (const std::string& piece : pieces) {
    shown += stop.push(piece);
    if (stop.stopped()) return {shown, true};
  }
  return {shown + stop.flush(), false};
}

/// What is shown when the whole text is there at once: up to the first stop string to be complete.
Shown expected(const std::vector<std::string>& stops, const std::string& text) {
  for (std::size_t end = 0; end <= text.size(); ++end) {
    std::size_t first = std::string::npos;
    for (const std::string& stop : stops)
      if (!stop.empty()) first = std::min(first, text.substr(0, end).find(stop));
    if (first != std::string::npos) return {text.substr(0, first), true};
  }
  return {text, false};
}

TEST(StopText, ShowsEverythingWithoutStops) {
  EXPECT_EQ(show({}, {"a", "", "bc"}), (Shown{"abc", false}));
  EXPECT_EQ(show({""}, {"a", "bc"}), (Shown{"abc", false}));
}

TEST(StopText, EndsBeforeAStopStringThatCrossesPieces) {
  EXPECT_EQ(show({"END"}, {"some E", "N", "D and more"}), (Shown{"some ", true}));
  EXPECT_EQ(show({"\n\n"}, {"one\n", "two\n", "\n", "three"}), (Shown{"one\ntwo", true}));
  EXPECT_EQ(show({"END"}, {"END"}), (Shown{"", true}));
}

TEST(StopText, HoldsBackNoMoreThanAStopStringMayNeed) {
  StopText stop({"abab", "xyz"});
  EXPECT_EQ(stop.push("11ab"), "11");
  EXPECT_EQ(stop.push("c"), "abc");
  EXPECT_EQ(stop.push("aba"), "");
  EXPECT_EQ(stop.push("ab"), "aba");
  EXPECT_EQ(stop.push("xy"), "ab");
  EXPECT_EQ(stop.flush(), "xy");
  EXPECT_EQ(stop.flush(), "");
  EXPECT_FALSE(stop.stopped());
}

TEST(StopText, ShowsNothingAfterTheStop) {
  StopText stop({"."});
  EXPECT_EQ(stop.push("a.b"), "a");
  EXPECT_TRUE(stop.stopped());
  EXPECT_EQ(stop.push("c"), "");
  EXPECT_EQ(stop.flush(), "");
}

TEST(StopText, FindsTheSameHoweverTheTextIsCut) {
  const std::vector<std::vector<std::string>> stops{{"aab"},     {"aa", "aaa"},  {"abab"},
                                                    {"ab", "b"}, {"bb", "abba"}, {"a\nb", "\n\n"}};
  for (const char* text : {"aaab", "aabaab", "ababab", "babab", "abbab", "a\n\nb", "aaa", "b", ""})
    for (const auto& some : stops)
      for (std::size_t cut = 0; cut < std::size_t{1} << std::string(text).size(); ++cut) {
        std::vector<std::string> pieces(1);
        for (std::size_t i = 0; text[i] != '\0'; ++i) {
          pieces.back() += text[i];
          if (cut >> i & 1) pieces.emplace_back();
        }
        ASSERT_EQ(show(some, pieces), expected(some, text)) << text << ", cut at bits of " << cut;
      }
}

}  // namespace
}  // namespace samba::test
