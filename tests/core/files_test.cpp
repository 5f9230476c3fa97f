#include "core/files.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"

namespace samba::test {
namespace {

namespace fs = std::filesystem;

/// A folder of its own for each test, removed at its end.
class Files : public testing::Test {
 protected:
  Files() {
    std::string name = (fs::temp_directory_path() / "samba_files_XXXXXX").string();
    folder_ = ::mkdtemp(name.data());
  }
  ~Files() override { fs::remove_all(folder_); }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  /// Names in the folder.
  std::vector<std::string> entries() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_))
      names.push_back(entry.path().filename().string());
    return names;
  }

 private:
  fs::path folder_;
};

template <class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST_F(Files, AppearWholeWhenCommitted) {
  AtomicFile file(path("a"));
  file.write("hello ");
  file.write("world");
  EXPECT_FALSE(fs::exists(path("a")));
  file.commit();
  EXPECT_EQ(read_text(path("a")), "hello world");
  EXPECT_EQ(entries(), std::vector<std::string>{"a"});
}

TEST_F(Files, LeaveNothingBehindWithoutCommit) {
  write_text(path("a"), "old");
  {
    AtomicFile file(path("a"));
    file.write(std::string(3 << 20, 'x'));
  }
  EXPECT_EQ(read_text(path("a")), "old");
  EXPECT_EQ(entries(), std::vector<std::string>{"a"});
}

TEST_F(Files, HoldWritesOfAllSizesInOrder) {
  std::string expected;
  AtomicFile file(path("a"));
  for (const std::size_t bytes : {0, 1, 1000, (1 << 20) - 1, 1, 1 << 20, 7, 3 << 20, 5}) {
    const std::string part(bytes, static_cast<char>('a' + expected.size() % 26));
    file.write(part);
    expected += part;
  }
  file.commit();
  EXPECT_TRUE(read_text(path("a")) == expected);
}

TEST_F(Files, OverwriteAHeaderAndGoOn) {
  AtomicFile file(path("a"));
  file.write("0000 first");
  file.write_at(0, "0042", 4);
  file.write(" second");
  file.commit();
  EXPECT_EQ(read_text(path("a")), "0042 first second");
}

TEST_F(Files, NameThePathThatCannotBeWritten) {
  const std::string missing = path("no/such/folder/a");
  EXPECT_EQ(message_of([&] { write_text(missing, "x"); }),
            missing + ": cannot write: No such file or directory");
  // A folder stands where the file should go: only the rename finds out.
  fs::create_directories(path("taken/inside"));
  EXPECT_EQ(message_of([&] { write_text(path("taken"), "x"); }),
            path("taken") + ": cannot write: Is a directory");
  EXPECT_EQ(entries(), std::vector<std::string>{"taken"});
}

TEST_F(Files, NameThePathOnAFullDisk) {
  // The limit on a file's size stands in for the disk's end: write() then fails the same way.
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &limit), 0);
  const rlim_t kept = limit.rlim_cur;
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  limit.rlim_cur = 100000;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  const std::string at_once = message_of([&] { write_text(path("a"), std::string(2 << 20, 'x')); });
  const std::string buffered = message_of([&] { write_text(path("a"), std::string(200000, 'x')); });
  limit.rlim_cur = kept;
  ::setrlimit(RLIMIT_FSIZE, &limit);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(at_once, path("a") + ": cannot write: File too large");
  EXPECT_EQ(buffered, path("a") + ": cannot write: File too large");
  EXPECT_TRUE(entries().empty());
}

TEST_F(Files, NameThePathThatOneMayNotTouch) {
  fs::permissions(path(""), fs::perms::owner_all | fs::perms::group_exec | fs::perms::others_exec);
  write_text(path("secret"), "x");
  fs::permissions(path("secret"), fs::perms::none);
  const auto as_nobody = [&](const auto& f) {
    // Root may do anything, so a child gives its rights away.
    if (::geteuid() == 0 && ::setuid(65534) != 0) std::_Exit(2);
    std::fputs(message_of(f).c_str(), stderr);
    std::_Exit(0);
  };
  EXPECT_EXIT(as_nobody([&] { MappedFile(path("secret")); }), testing::ExitedWithCode(0),
              "secret: cannot open: Permission denied");
  fs::permissions(path(""), fs::perms::none);
  EXPECT_EXIT(as_nobody([&] { write_text(path("new"), "x"); }), testing::ExitedWithCode(0),
              "new: cannot write: Permission denied");
  EXPECT_EXIT(as_nobody([&] { make_folder(path("new")); }), testing::ExitedWithCode(0),
              "new: cannot make the folder: Permission denied");
  fs::permissions(path(""), fs::perms::owner_all);
}

TEST_F(Files, AreMappedWithTheirBytes) {
  write_text(path("a"), std::string("a\0b", 3));
  MappedFile file(path("a"));
  ASSERT_EQ(file.bytes().size(), 3u);
  EXPECT_EQ(file.bytes()[2], std::byte{'b'});
  EXPECT_EQ(file.path(), path("a"));
  const MappedFile moved = std::move(file);
  EXPECT_EQ(moved.bytes()[0], std::byte{'a'});
  EXPECT_TRUE(file.bytes().empty());  // NOLINT(bugprone-use-after-move): that is what is tested
}

TEST_F(Files, MayBeEmpty) {
  write_text(path("a"), "");
  EXPECT_TRUE(MappedFile(path("a")).bytes().empty());
  EXPECT_EQ(read_text(path("a")), "");
}

TEST_F(Files, NameThePathThatCannotBeRead) {
  EXPECT_EQ(message_of([&] { MappedFile(path("missing")); }),
            path("missing") + ": cannot open: No such file or directory");
  EXPECT_EQ(message_of([&] { read_text(path("")); }), path("") + ": cannot read: Is a directory");
  write_text(path("a"), "12345");
  EXPECT_EQ(message_of([&] { read_text(path("a"), 4); }),
            path("a") + ": found 5 bytes; expected at most 4");
  EXPECT_EQ(read_text(path("a"), 5), "12345");
}

TEST_F(Files, FoldersAreMadeWithTheirParents) {
  make_folder(path("a/b/c"));
  make_folder(path("a/b/c"));
  EXPECT_TRUE(fs::is_directory(path("a/b/c")));
  write_text(path("file"), "x");
  EXPECT_EQ(message_of([&] { make_folder(path("file/below")); }),
            path("file/below") + ": cannot make the folder: Not a directory");
  EXPECT_EQ(message_of([&] { sync_folder(path("missing")); }),
            path("missing") + ": cannot open: No such file or directory");
}

}  // namespace
}  // namespace samba::test
