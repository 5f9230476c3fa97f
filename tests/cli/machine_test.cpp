#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "cli/program.h"
#include "core/error.h"
#include "support/shared.h"

namespace samba::test {
namespace {

namespace fs = std::filesystem;

/// Commands that write a file or a folder named "new", and more bytes into it than a disk with
/// `kSmall` free has.
constexpr Index kSmall = 4096;
const std::vector<std::vector<std::string>> kWriters = {
    {"tokenizer", "train", "text.jsonl", "--vocab", "320", "--quiet", "--out"},
    {"prepare", "text.jsonl", "--tokenizer", "tokenizer.model", "--quiet", "--out"},
    {"train", "mini.json", "--data", "data", "--quiet", "--out"},
    {"eval", "perplexity", "run", "--data", "data", "--quiet", "--sequences", "1", "--report"},
};

/// Names of everything in a folder that is neither a log nor a folder with nothing in it.
std::vector<std::string> left_in(const std::string& folder) {
  std::vector<std::string> names;
  if (!fs::exists(folder)) return names;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    const bool log = name == "log.jsonl" || name.rfind("events.out", 0) == 0;
    const bool empty_run = name == "new" && entry.is_directory();
    if (!log && !empty_run) names.push_back(entry.path().string());
  }
  return names;
}

/// Expects one line that names the folder and what the system says, and no checkpoint, no file
/// and no temporary one.
void expect_failed(const Ended& ended, const std::string& folder, const std::string& reason) {
  EXPECT_EQ(ended.code, 1);
  EXPECT_EQ(ended.signal, 0);
  EXPECT_EQ(ended.err.rfind("sambalm: ", 0), 0u) << ended.err;
  EXPECT_EQ(ended.err.find('\n') + 1, ended.err.size()) << ended.err;
  EXPECT_NE(ended.err.find("new"), std::string::npos) << ended.err;
  EXPECT_NE(ended.err.find(reason), std::string::npos) << ended.err;
  EXPECT_EQ(left_in(folder), std::vector<std::string>{});
}

TEST(BusyCores, WaitingThreadsSleepSoonUnlessTheUserSaysOtherwise) {
  const auto limit = [](const std::string& more) {
    const std::string command =
        "env -u OMP_WAIT_POLICY -u GOMP_SPINCOUNT OMP_DISPLAY_ENV=verbose " + more +
        " " SAMBA_PROGRAM " info --list 2>&1";
    FILE* pipe = popen(command.c_str(), "r");
    std::string out;
    for (int c = 0; (c = std::fgetc(pipe)) != EOF;) out += static_cast<char>(c);
    EXPECT_EQ(pclose(pipe), 0);
    // The program starts twice and says so twice: what it ends with counts.
    const std::string key = "GOMP_SPINCOUNT = '";
    const std::size_t at = out.rfind(key);
    EXPECT_NE(at, std::string::npos) << out;
    return std::strtod(out.c_str() + at + key.size(), nullptr);
  };
  EXPECT_EQ(limit(""), 2000);
  EXPECT_EQ(limit("GOMP_SPINCOUNT=7"), 7);
  EXPECT_EQ(limit("OMP_WAIT_POLICY=passive"), 0);
}

TEST(FullDisk, LimitsOnFilesLeaveNothingBehind) {
  const Prepared place;
  for (std::vector<std::string> words : kWriters) {
    SCOPED_TRACE(testing::PrintToString(words));
    fs::create_directory(place / "disk");
    words.emplace_back("disk/new");
    expect_failed(place.run(words, {.most_bytes = kSmall}), place / "disk", "File too large");
    fs::remove_all(place / "disk");
  }
}

TEST(FullDisk, SmallFileSystemsLeaveNothingBehind) {
  const Prepared place;
  const std::string disk = place / "disk";
  fs::create_directory(disk);
  if (::mount("none", disk.c_str(), "tmpfs", 0, "size=16k") != 0)
    GTEST_SKIP() << "no right to mount a file system";
  ::umount2(disk.c_str(), MNT_DETACH);
  for (std::vector<std::string> words : kWriters) {
    SCOPED_TRACE(testing::PrintToString(words));
    words.emplace_back("disk/new");
    const bool pieces = words[0] == "tokenizer";  // whose file is the smallest
    ASSERT_EQ(::mount("none", disk.c_str(), "tmpfs", 0, pieces ? "size=4k" : "size=12k"), 0);
    expect_failed(place.run(words), disk, "No space left on device");
    ::umount2(disk.c_str(), MNT_DETACH);
  }
}

TEST(FullDisk, ACheckpointThatDoesNotFitLeavesTheOneBefore) {
  const Prepared place;
  const Ended ended = place.run({"train", "mini.json", "--data", "data", "--out", "run", "--resume",
                                 "--steps", "4", "--quiet"},
                                {.most_bytes = 200'000});  // less than the optimizer's file
  EXPECT_EQ(ended.code, 1);
  EXPECT_NE(ended.err.find("optimizer.safetensors: cannot write"), std::string::npos) << ended.err;
  EXPECT_FALSE(fs::exists(place / "run/step-00000004"));
  EXPECT_FALSE(fs::exists(place / "run/step-00000004.partial"));
  place.succeed({"generate", "run", "the", "--tokens", "2"});
  place.succeed(
      {"train", "mini.json", "--data", "data", "--out", "run", "--resume", "--steps", "4"});
  EXPECT_TRUE(fs::exists(place / "run/step-00000004/optimizer.safetensors"));
}

TEST(FullDisk, ResultsThatCannotBeWrittenAreErrors) {
  const Prepared place;
  const std::string golden = test_file("goldens/lit_gpt/samba");
  for (const std::vector<std::string>& words : {std::vector<std::string>{"info", "run"},
                                                {"--help"},
                                                {"generate", "run", "the", "--quiet"},
                                                {"tokenizer", "encode", "tokenizer.model", "the"},
                                                {"info", "run", "--json", "-"}})
    place.refuse(1, words, {"standard output: cannot write"}, {.output = "/dev/full"});
  const Ended ended =
      place.run({"verify", golden, golden + "/expected.safetensors", "--write", "new"},
                {.most_bytes = kSmall});
  EXPECT_EQ(ended.code, 1);
  EXPECT_NE(ended.err.find("new: cannot write: File too large"), std::string::npos) << ended.err;
  EXPECT_FALSE(fs::exists(place / "new"));
}

TEST(Rights, FoldersThatMayNotBeReadOrWrittenAreNamed) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can become another user";
  const Prepared place;
  constexpr uid_t kNobody = 65534;
  const Surroundings nobody{.user = kNobody};
  if (place.run({"--version"}, nobody).code != 0)
    GTEST_SKIP() << "other users may not run " << SAMBA_PROGRAM;
  const auto lock = [&](const std::string& name, mode_t mode) {
    ASSERT_EQ(::chmod((place / name).c_str(), mode), 0);
  };
  fs::create_directory(place / "locked");
  fs::create_directory(place / "open");
  place.write("locked/text.txt", "the river");
  lock("locked", 0700);
  lock("open", 0777);
  const auto refuse = [&](const std::vector<std::string>& words, const std::string& part) {
    place.refuse(1, words, {part, "ermission denied"}, nobody);
  };
  const std::vector<std::string> prepare = {"prepare", "text.jsonl", "--tokenizer",
                                            "tokenizer.model", "--out"};
  const auto with = [](std::vector<std::string> words, const std::string& last) {
    words.push_back(last);
    return words;
  };
  refuse({"info", "locked"}, "locked");
  refuse({"info", "locked/config.json"}, "locked");
  refuse({"generate", "run", "--file", "locked/text.txt"}, "locked/text.txt");
  refuse({"prepare", "locked", "--tokenizer", "tokenizer.model", "--out", "open/new"}, "locked");
  refuse({"prepare", "locked/text.txt", "--tokenizer", "tokenizer.model", "--out", "open/new"},
         "locked");
  refuse({"tokenizer", "encode", "locked/t.model", "x"}, "locked/t.model");
  refuse(with(prepare, "locked/new"), "locked/new");
  refuse(with(prepare, "new"), "new");
  refuse({"train", "mini.json", "--data", "locked", "--out", "open/new"}, "locked");
  refuse({"train", "mini.json", "--data", "data", "--out", "new", "--quiet"}, "new");
  refuse({"train", "mini.json", "--data", "data", "--out", "locked", "--quiet"}, "locked");
  refuse({"train", "mini.json", "--data", "data", "--out", "run", "--resume", "--steps", "4",
          "--quiet"},
         "run/");
  refuse({"eval", "perplexity", "run", "--data", "locked"}, "locked");
  refuse({"tokenizer", "train", "text.jsonl", "--vocab", "320", "--out", "new.model"}, "new.model");
  lock("run/step-00000002/model.safetensors", 0);
  refuse({"generate", "run", "the"}, "run/step-00000002/model.safetensors");
  lock("run/step-00000002", 0700);
  refuse({"generate", "run", "the"}, "run/step-00000002");
}

}  // namespace
}  // namespace samba::test
