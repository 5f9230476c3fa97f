#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <functional>
#include <thread>

#include "cli/program.h"
#include "core/rng.h"
#include "train/log.h"

namespace samba::test {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

/// Looks until `condition` holds or the program has ended; whether it holds.
bool wait_for(Program& program, const std::function<bool()>& condition) {
  while (!condition()) {
    if (!program.runs()) return condition();
    std::this_thread::sleep_for(100us);
  }
  return true;
}

/// Whether a name in the folder contains `part`.
bool holds(const std::string& folder, const std::string& part) {
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error))
    if (entry->path().filename().string().find(part) != std::string::npos) return true;
  return false;
}

std::vector<Index> logged_steps(const std::string& run) {
  std::vector<Index> steps;
  for (const StepRecord& step : read_training_log(run + "/log.jsonl").steps)
    steps.push_back(step.step);
  return steps;
}

std::vector<std::string> training(const std::string& out, int steps) {
  return {"train",     "mini.json", "--data",       "data",
          "--out",     out,         "--steps",      std::to_string(steps),
          "--quiet",   "--resume",  "--save-every", "1",
          "--threads", "2"};
}

TEST(Killed, ATrainingThatIsKilledAgainAndAgainEndsAsAnUnbrokenOne) {
  constexpr int kSteps = 60, kKills = 16;
  const Prepared place(Prepared::Until::data);
  place.succeed(training("whole", kSteps));
  const Rng rng{20, 0};
  int inside_checkpoint = 0;
  for (std::uint64_t round = 0; round < kKills; ++round) {
    Program program(place.path(), training("broken", kSteps), {});
    const auto pause = std::chrono::microseconds(rng.below(3000, 2 * round));
    if (round % 4 == 3) {
      // At any moment, that of reading the checkpoint included.
      std::this_thread::sleep_for(30 * pause);
    } else {
      // While a checkpoint is written, after a few whole ones.
      const std::string last = place / "broken/last.json";
      const auto written = [&] {
        return fs::exists(last) ? fs::last_write_time(last) : fs::file_time_type();
      };
      const auto before = written();
      wait_for(program, [&] { return written() != before; });
      wait_for(program, [&] { return holds(place / "broken", ".partial"); });
      std::this_thread::sleep_for(pause / 2);
    }
    ASSERT_TRUE(program.runs()) << "the run was over after " << round << " kills";
    program.send(SIGKILL);
    EXPECT_EQ(program.end().signal, SIGKILL);
    inside_checkpoint += holds(place / "broken", ".partial");
  }
  EXPECT_GT(inside_checkpoint, 0) << "no kill met a checkpoint that was being written";
  place.succeed(training("broken", kSteps));

  const std::string folder = "/step-00000060/";
  for (const char* file : {"model.safetensors", "optimizer.safetensors"})
    EXPECT_EQ(place.read("broken" + folder + file), place.read("whole" + folder + file)) << file;
  const std::vector<Index> steps = logged_steps(place / "broken");
  ASSERT_EQ(steps.size(), static_cast<std::size_t>(kSteps));
  for (std::size_t i = 0; i < steps.size(); ++i) EXPECT_EQ(steps[i], static_cast<Index>(i + 1));
  EXPECT_FALSE(holds(place / "broken", ".partial"));
  EXPECT_FALSE(holds(place / "broken", ".tmp"));
}

TEST(Interrupted, TrainingLeavesACheckpointThatLoadsAndGoesOn) {
  const Prepared place(Prepared::Until::data);
  for (const int signal : {SIGINT, SIGTERM}) {
    fs::remove_all(place / "run");
    std::vector<std::string> words = training("run", 1'000'000);
    words[std::find(words.begin(), words.end(), "--save-every") - words.begin() + 1] = "0";
    Program program(place.path(), words, {});
    ASSERT_TRUE(wait_for(program, [&] {
      return fs::exists(place / "run/log.jsonl") && logged_steps(place / "run").size() >= 3;
    })) << program.end().err;
    // Again at once, as `timeout` does, while the checkpoint is being written.
    for (int i = 0; i < 20; ++i) {
      program.send(signal);
      std::this_thread::sleep_for(200us);
    }
    const Ended ended = program.end();
    EXPECT_EQ(ended.code, 130) << ended.err;
    EXPECT_EQ(ended.err, "");
    EXPECT_FALSE(holds(place / "run", ".partial"));
    place.succeed({"generate", "run", "the", "--tokens", "2"});
    const Index steps = logged_steps(place / "run").back();
    place.succeed(training("run", static_cast<int>(steps) + 2));
    EXPECT_EQ(logged_steps(place / "run").back(), steps + 2);
  }
}

/// A pipe with a name, so that a test decides how far a program reads.
class Feed {
 public:
  explicit Feed(std::string path) : path_(std::move(path)) {
    ::signal(SIGPIPE, SIG_IGN);  // a reader may end first
    EXPECT_EQ(::mkfifo(path_.c_str(), 0644), 0);
  }
  ~Feed() { close(); }
  /// Blocks until a reader is there.
  void open() { file_ = ::open(path_.c_str(), O_WRONLY); }
  void write(const std::string& text) const {
    for (std::size_t at = 0; at < text.size();) {
      const ssize_t count = ::write(file_, text.data() + at, text.size() - at);
      if (count < 0) return;
      at += static_cast<std::size_t>(count);
    }
  }
  void close() {
    if (file_ >= 0) ::close(file_);
    file_ = -1;
  }

 private:
  std::string path_;
  int file_ = -1;
};

TEST(Interrupted, PreparingLeavesNothing) {
  const Prepared place(Prepared::Until::tokenizer);
  Feed feed(place / "slow.jsonl");
  const std::set<std::string> before = place.listing();
  const std::string text = documents(1500);  // more than is encoded at a time
  Program program(place.path(),
                  {"prepare", "slow.jsonl", "--tokenizer", "tokenizer.model", "--out", "new/data",
                   "--validation", "0.5", "--chunk", "1000", "--threads", "2", "--quiet"},
                  {});
  feed.open();
  feed.write(text);
  ASSERT_TRUE(wait_for(program, [&] { return holds(place / "new/data", "train.tmp"); }));
  program.send(SIGINT);
  feed.write(text);
  feed.close();
  const Ended ended = program.end();
  EXPECT_EQ(ended.code, 130) << ended.err;
  EXPECT_EQ(ended.out + ended.err, "");
  EXPECT_EQ(place.listing(), before);
}

TEST(Interrupted, CommandsWithNothingToSaveStopAtOnce) {
  const Prepared place;
  Feed feed(place / "slow.jsonl");
  const std::set<std::string> before = place.listing();
  Program tokenizer(place.path(),
                    {"tokenizer", "train", "slow.jsonl", "--vocab", "320", "--out", "new"}, {});
  feed.open();
  tokenizer.send(SIGINT);
  EXPECT_EQ(tokenizer.end().code, 130);

  Program bench(place.path(), {"bench", "run", "--rounds", "1000000"}, {});
  ASSERT_TRUE(wait_for(bench, [&] { return bench.catches(SIGINT); }));
  bench.send(SIGINT);
  EXPECT_EQ(bench.end().code, 130);
  EXPECT_EQ(place.listing(), before);
}

TEST(Interrupted, GenerationKeepsWhatItHasShown) {
  const Prepared place;
  place.write("shown", "");
  Program program(place.path(),
                  {"generate", "run", "the", "--tokens", "100000000", "--ignore-end", "--quiet"},
                  {.output = place / "shown"});
  ASSERT_TRUE(wait_for(program, [&] { return fs::file_size(place / "shown") > 100; }));
  program.send(SIGINT);
  EXPECT_EQ(program.end().code, 130);
  EXPECT_EQ(place.read("shown").rfind("the", 0), 0u);
  EXPECT_EQ(place.read("shown").back(), '\n');
}

}  // namespace
}  // namespace samba::test
