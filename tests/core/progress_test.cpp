#include "core/progress.h"

#include <gtest/gtest.h>
#include <pty.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "core/utf8.h"

namespace samba {
namespace {

/// A terminal that remembers what was written and whose clock the test turns.
class ProgressTest : public testing::Test {
 protected:
  Terminal terminal(bool live, bool unicode = true) {
    return {.live = live,
            .unicode = unicode,
            .columns = [this] { return columns_; },
            .write = [this](std::string_view text) { writes_.emplace_back(text); },
            .seconds = [this] { return clock_; }};
  }

  std::string all() const {
    std::string text;
    for (const std::string& write : writes_) text += write;
    return text;
  }

  /// What a live write draws: without the return in front and the erasure behind.
  static std::string drawn(const std::string& write) {
    EXPECT_EQ(write.substr(0, 1), "\r");
    EXPECT_EQ(write.substr(write.size() - 3), "\x1b[K");
    return write.substr(1, write.size() - 4);
  }

  int columns_ = 120;
  double clock_ = 1000;
  std::vector<std::string> writes_;
};

TEST_F(ProgressTest, ShortWorkShowsNothing) {
  for (const bool live : {true, false}) {
    Progress progress({.label = "train", .unit = "tokens", .total = 100}, terminal(live));
    clock_ += 1;
    progress.update(50);
    clock_ += 0.5;
    progress.update(100);
    progress.finish();
  }
  EXPECT_EQ(all(), "");
}

TEST_F(ProgressTest, ShortWorkFinishesAloudWhenAsked) {
  Progress progress({.label = "pack", .unit = "tokens", .total = 3000, .always_finish = true},
                    terminal(true));
  clock_ += 1;
  progress.update(3000, "2 files");
  progress.finish();
  progress.finish();
  EXPECT_EQ(all(), "pack: 3.00k tokens in 1s, 3.00k tokens/s, 2 files\n");
}

TEST_F(ProgressTest, QuietShowsNothingAtAll) {
  {
    Progress progress({.label = "train", .unit = "tokens", .quiet = true, .always_finish = true},
                      terminal(true));
    clock_ += 100;
    progress.update(50);
    progress.say("validation loss 3");
    progress.finish();
  }
  EXPECT_EQ(all(), "");
}

TEST_F(ProgressTest, DrawsOneLiveLine) {
  Progress progress({.label = "train", .unit = "tokens", .total = 4e6}, terminal(true));
  clock_ += 10;
  progress.update(1e6, "loss 3.412");
  ASSERT_EQ(writes_.size(), 1u);
  EXPECT_EQ(drawn(writes_[0]),
            "train  ━━━━━━━╸──────────────────────   25%  1.00M/4.00M tokens  100k/s  30s left  "
            "loss 3.412");
}

TEST_F(ProgressTest, DrawsAtMostTenTimesASecond) {
  Progress progress({.label = "train", .unit = "tokens", .total = 1e4}, terminal(true));
  clock_ += 2;
  for (int i = 0; i < 1000; ++i, clock_ += 0.001) progress.update(i);
  EXPECT_GE(writes_.size(), 9u);
  EXPECT_LE(writes_.size(), 10u);
}

TEST_F(ProgressTest, IsNeverWiderThanTheTerminal) {
  for (const bool unicode : {true, false}) {
    for (columns_ = 1; columns_ < 140; ++columns_) {
      writes_.clear();
      Progress progress({.label = "train", .unit = "tokens", .total = 4e6},
                        terminal(true, unicode));
      clock_ += 10;
      progress.update(1e6, "loss 3.412  語彙 validation 3.5");
      ASSERT_EQ(writes_.size(), 1u);
      EXPECT_LT(display_width(drawn(writes_[0])), columns_) << writes_[0];
      const bool shows_loss = writes_[0].find("loss 3.412") != std::string::npos;
      EXPECT_TRUE(shows_loss || columns_ <= 50) << columns_;
    }
  }
}

TEST_F(ProgressTest, WritesOnlyAsciiWhereUnicodeIsNotUnderstood) {
  Progress progress({.label = "prépare", .unit = "tokens", .total = 100}, terminal(true, false));
  clock_ += 10;
  progress.update(50, "naïve");
  EXPECT_EQ(drawn(writes_[0]).substr(0, 50), "pr?pare  [###############---------------]   50%  5");
  for (const char c : all()) EXPECT_GT(c, 0);
}

TEST_F(ProgressTest, NoTextMovesTheCursor) {
  Progress progress({.label = "a\nb\x1b[2J", .unit = "files", .total = 2}, terminal(true));
  clock_ += 10;
  progress.update(1, "x\ry\xc2\x9b");
  EXPECT_EQ(drawn(writes_[0]).find_first_of("\n\r\x1b"), std::string::npos);
  EXPECT_EQ(drawn(writes_[0]).find("\xc2\x9b"), std::string::npos);
}

TEST_F(ProgressTest, WritesPlainLinesEveryTenSeconds) {
  Progress progress({.label = "train", .unit = "tokens", .total = 6000}, terminal(false));
  for (int i = 1; i <= 60; ++i) {
    clock_ += 0.5;
    progress.update(100 * i, "loss 3");
  }
  progress.finish();
  EXPECT_EQ(all(),
            "train: 6%, 400/6.00k tokens, 200 tokens/s, 28s left, loss 3\n"
            "train: 40%, 2.40k/6.00k tokens, 200 tokens/s, 18s left, loss 3\n"
            "train: 73%, 4.40k/6.00k tokens, 200 tokens/s, 8s left, loss 3\n"
            "train: 6.00k tokens in 30s, 200 tokens/s, loss 3\n");
}

TEST_F(ProgressTest, ForgetsTheRateOfLongAgo) {
  Progress progress({.label = "train", .unit = "tokens", .total = 1e6}, terminal(false));
  double done = 0;
  for (int i = 0; i < 60; ++i, clock_ += 1) progress.update(done += 1000);
  writes_.clear();
  for (int i = 0; i < 60; ++i, clock_ += 1) progress.update(done += 10);
  EXPECT_NE(writes_.back().find(" 10 tokens/s"), std::string::npos) << writes_.back();
}

TEST_F(ProgressTest, CountsOnlyItsOwnWorkInTheRateOfAResumedRun) {
  Progress progress({.label = "train", .unit = "tokens", .total = 2000, .done = 1000},
                    terminal(false));
  clock_ += 10;
  progress.update(1500);
  EXPECT_EQ(all(), "train: 75%, 1.50k/2.00k tokens, 50 tokens/s, 10s left\n");
}

TEST_F(ProgressTest, WithoutATotalSaysTheTimeSpent) {
  Progress progress({.label = "read", .unit = "documents"}, terminal(true));
  clock_ += 75;
  progress.update(150);
  EXPECT_EQ(drawn(writes_[0]), "read  150 documents  2/s  1m 15s");
}

TEST_F(ProgressTest, SaysWhenWorkStoppedBeforeTheEnd) {
  Progress progress({.label = "train", .unit = "steps", .total = 100}, terminal(false));
  clock_ += 4;
  progress.update(40);
  writes_.clear();
  progress.finish();
  EXPECT_EQ(all(), "train: 40/100 steps in 4s, 10 steps/s\n");
}

TEST_F(ProgressTest, KeepsWhatIsSaidAboveTheLiveLine) {
  Progress progress({.label = "train", .unit = "steps", .total = 100}, terminal(true));
  progress.say("before");
  clock_ += 10;
  progress.update(50);
  const std::string live = drawn(writes_.back());
  progress.say("step 50: validation loss 3.104");
  progress.finish();
  EXPECT_EQ(all(), "before\n\r" + live + "\x1b[K\rstep 50: validation loss 3.104\x1b[K\n" + live +
                       "\x1b[K\rtrain: 50/100 steps in 10s, 5 steps/s\x1b[K\n");
}

TEST_F(ProgressTest, LeavesTheLineWhenWorkIsGivenUp) {
  {
    Progress progress({.label = "train", .unit = "steps", .total = 100}, terminal(true));
    clock_ += 10;
    progress.update(50);
  }
  EXPECT_EQ(writes_.back(), "\n");
}

TEST(TerminalTest, KnowsATerminalFromAPipe) {
  const int before = ::dup(STDERR_FILENO);
  int master = -1, slave = -1;
  winsize size{};
  size.ws_col = 57;
  ASSERT_EQ(::openpty(&master, &slave, nullptr, nullptr, &size), 0);
  ::setenv("TERM", "xterm", 1);
  ::dup2(slave, STDERR_FILENO);
  const Terminal terminal = Terminal::standard_error();
  const int columns = terminal.columns();
  ::setenv("TERM", "dumb", 1);
  const bool dumb_is_live = Terminal::standard_error().live;
  ::setenv("TERM", "xterm", 1);
  int pipes[2];
  ASSERT_EQ(::pipe(pipes), 0);
  ::dup2(pipes[1], STDERR_FILENO);
  const bool pipe_is_live = Terminal::standard_error().live;
  ::dup2(before, STDERR_FILENO);
  for (const int file : {before, master, slave, pipes[0], pipes[1]}) ::close(file);
  EXPECT_TRUE(terminal.live);
  EXPECT_EQ(columns, 57);
  EXPECT_FALSE(dumb_is_live);
  EXPECT_FALSE(pipe_is_live);
}

TEST(TerminalTest, TakesTheFirstLocaleThatIsSet) {
  ::setenv("LC_ALL", "", 1);
  ::setenv("LC_CTYPE", "de_DE.utf8", 1);
  ::setenv("LANG", "C", 1);
  EXPECT_TRUE(Terminal::standard_error().unicode);
  ::setenv("LC_ALL", "POSIX", 1);
  EXPECT_FALSE(Terminal::standard_error().unicode);
  ::unsetenv("LC_ALL");
  ::unsetenv("LC_CTYPE");
  EXPECT_FALSE(Terminal::standard_error().unicode);
}

TEST(TerminalTest, MeasuresAndClipsText) {
  EXPECT_EQ(display_width("loss"), 4);
  EXPECT_EQ(display_width("naïve"), 5);
  EXPECT_EQ(display_width("nai\u0308ve"), 5);
  EXPECT_EQ(display_width("語彙"), 4);
  EXPECT_EQ(clipped("語彙 size", 5, "…"), "語彙…");
  EXPECT_EQ(clipped("語彙 size", 4, "…"), "語…");
  EXPECT_EQ(clipped("size", 4, "…"), "size");
  EXPECT_EQ(clipped("sizes", 2, "..."), "");
}

TEST(Utf8, RefusesWhatTheStandardRefuses) {
  const auto decoded = [](std::string_view bytes) {
    std::vector<char32_t> codes;
    for (std::size_t at = 0; at < bytes.size();) codes.push_back(next_code_point(bytes, at));
    return codes;
  };
  const char32_t bad = kReplacement;
  EXPECT_EQ(decoded("aé€😀"), (std::vector<char32_t>{'a', 0xE9, 0x20AC, 0x1F600}));
  EXPECT_EQ(decoded("\xC0\xAF"), (std::vector<char32_t>{bad, bad}));           // overlong
  EXPECT_EQ(decoded("\xED\xA0\x80"), (std::vector<char32_t>{bad, bad, bad}));  // surrogate
  EXPECT_EQ(decoded("\xF4\x90\x80\x80").size(), 4u);                           // too large
  EXPECT_EQ(decoded("\xF0\x9F\x98z"), (std::vector<char32_t>{bad, 'z'}));      // cut short
  EXPECT_EQ(decoded("\xE2\x82"), (std::vector<char32_t>{bad}));                // at the end
  EXPECT_EQ(decoded("\x80\xFF"), (std::vector<char32_t>{bad, bad}));
}

TEST(Utf8, WritesWhatItReads) {
  for (const char32_t code :
       {0x24u, 0x7Fu, 0x80u, 0x7FFu, 0x800u, 0xD7FFu, 0xE000u, 0xFFFFu, 0x10000u, 0x10FFFFu}) {
    std::string text;
    append_utf8(text, code);
    std::size_t at = 0;
    EXPECT_EQ(next_code_point(text, at), code);
    EXPECT_EQ(at, text.size());
  }
  std::string surrogate;
  append_utf8(surrogate, 0xD800);
  EXPECT_EQ(surrogate, "\uFFFD");
}

}  // namespace
}  // namespace samba
