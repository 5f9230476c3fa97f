#include "cli/program.h"

#include <fcntl.h>
#include <grp.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "core/rng.h"
#include "model/bytes.h"

namespace samba::test {
namespace {

namespace fs = std::filesystem;

constexpr unsigned kLongest = 300;  // seconds; far beyond what any of these needs

/// A file without a name.
int nameless() {
  std::string name = (fs::temp_directory_path() / "sambalm-XXXXXX").string();
  const int file = ::mkstemp(name.data());
  if (file < 0) throw std::runtime_error("cannot make " + name);
  ::unlink(name.c_str());
  return file;
}

std::string bytes_of_file(int file) {
  std::string bytes;
  char buffer[65536];
  ::lseek(file, 0, SEEK_SET);
  for (ssize_t count; (count = ::read(file, buffer, sizeof(buffer))) > 0;)
    bytes.append(buffer, static_cast<std::size_t>(count));
  return bytes;
}

/// In the child: what lies between fork and exec must not allocate.
[[noreturn]] void become(const char* folder, char* const* words, const Surroundings& s,
                         const int (&files)[3]) {
  const auto expect = [](bool good) {
    if (!good) ::_exit(99);
  };
  for (int i = 0; i < 3; ++i) expect(::dup2(files[i], i) == i);
  expect(::chdir(folder) == 0);
  if (s.most_bytes) {
    const rlimit limit{static_cast<rlim_t>(*s.most_bytes), static_cast<rlim_t>(*s.most_bytes)};
    expect(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
  }
  if (s.user)
    expect(::setgroups(0, nullptr) == 0 && ::setgid(*s.user) == 0 && ::setuid(*s.user) == 0);
  ::alarm(kLongest);
  ::execv(words[0], words);
  ::_exit(99);
}

}  // namespace

Program::Program(const std::string& folder, const std::vector<std::string>& words,
                 const Surroundings& s)
    : out_(s.output.empty() ? nameless() : ::open(s.output.c_str(), O_WRONLY)), err_(nameless()) {
  const int in = nameless();
  if (::write(in, s.input.data(), s.input.size()) != static_cast<ssize_t>(s.input.size()))
    throw std::runtime_error("cannot write the input");
  ::lseek(in, 0, SEEK_SET);
  std::vector<std::string> all{SAMBA_PROGRAM};
  all.insert(all.end(), words.begin(), words.end());
  std::vector<char*> pointers;
  for (std::string& word : all) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  process_ = ::fork();
  if (process_ == 0) become(folder.c_str(), pointers.data(), s, {in, out_, err_});
  ::close(in);
}

Program::~Program() {
  if (!status_) {
    send(SIGKILL);
    ::waitpid(process_, nullptr, 0);
  }
  ::close(out_);
  ::close(err_);
}

void Program::send(int signal) const {
  ::kill(process_, signal);
}

bool Program::catches(int signal) const {
  std::ifstream status(text_of("/proc/", process_, "/status"));
  for (std::string word; status >> word;) {
    if (word != "SigCgt:") continue;
    std::string mask;
    status >> mask;
    return (std::stoull(mask, nullptr, 16) >> (signal - 1) & 1) != 0;
  }
  return false;
}

bool Program::runs() {
  int status = 0;
  if (!status_ && ::waitpid(process_, &status, WNOHANG) == process_) status_ = status;
  return !status_;
}

Ended Program::end() {
  int status = 0;
  if (!status_ && ::waitpid(process_, &status, 0) == process_) status_ = status;
  Ended ended{.out = bytes_of_file(out_), .err = bytes_of_file(err_)};
  if (status_ && WIFEXITED(*status_)) ended.code = WEXITSTATUS(*status_);
  if (status_ && WIFSIGNALED(*status_)) ended.signal = WTERMSIG(*status_);
  return ended;
}

Workplace::Workplace()
    : path_((fs::path(SAMBA_PROGRAM).parent_path() / "test-cli-XXXXXX").string()) {
  if (::mkdtemp(path_.data()) == nullptr || ::chmod(path_.c_str(), 0755) != 0)
    throw std::runtime_error("cannot make " + path_);
}

Workplace::~Workplace() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

Ended Workplace::run(const std::vector<std::string>& words, const Surroundings& s) const {
  return Program(path_, words, s).end();
}

std::string Workplace::succeed(const std::vector<std::string>& words, const Surroundings& s) const {
  const Ended ended = run(words, s);
  EXPECT_EQ(ended.code, 0) << testing::PrintToString(words) << '\n' << ended.err;
  return ended.out;
}

Json Workplace::result(std::vector<std::string> words, const Surroundings& s) const {
  words.insert(words.end(), {"--json", "-"});
  const std::string out = succeed(words, s);
  Json document;
  EXPECT_NO_THROW(document = parse_json(out, "standard output")) << out;
  EXPECT_TRUE(!out.empty() && out.back() == '\n');
  return document;
}

void Workplace::refuse(int code, const std::vector<std::string>& words,
                       const std::vector<std::string>& parts, const Surroundings& s) const {
  SCOPED_TRACE(testing::PrintToString(words));
  const std::set<std::string> before = listing();
  const Ended ended = run(words, s);
  EXPECT_EQ(ended.signal, 0);
  EXPECT_EQ(ended.code, code);
  EXPECT_EQ(ended.out, "");
  EXPECT_EQ(ended.err.rfind("sambalm: ", 0), 0u) << ended.err;
  EXPECT_EQ(std::count(ended.err.begin(), ended.err.end(), '\n'), 1) << ended.err;
  for (const std::string& part : parts)
    EXPECT_NE(ended.err.find(part), std::string::npos) << "no " << part << " in: " << ended.err;
  EXPECT_EQ(listing(), before);
}

void Workplace::write(const std::string& name, const std::string& bytes) const {
  fs::create_directories(fs::path(*this / name).parent_path());
  write_bytes(*this / name, bytes);
}

std::string Workplace::read(const std::string& name) const {
  return read_bytes(*this / name);
}

std::set<std::string> Workplace::listing() const {
  std::set<std::string> all;
  for (const auto& entry : fs::recursive_directory_iterator(path_))
    all.insert(fs::relative(entry.path(), path_).string() +
               (entry.is_regular_file() ? " " + std::to_string(entry.file_size()) : ""));
  return all;
}

Json mini(const Json& changes) {
  Json config = parse_json(R"({
    "name": "mini", "vocab": 320, "d_model": 32, "context": 16,
    "layers": [
      {"type": "mamba", "d_state": 4},
      {"type": "swiglu", "d_ff": 64},
      {"type": "attention", "heads": 2, "window": 8},
      {"type": "swiglu", "d_ff": 64}],
    "train": {"steps": 2, "batch": 2, "lr": 0.001}})",
                           "mini");
  config.update(changes);
  return config;
}

std::string documents(int count, std::uint64_t seed) {
  static constexpr const char* kWords[] = {"the",   "a",     "of",   "river", "stone", "light",
                                           "house", "walks", "over", "green", "slow",  "bird",
                                           "moon",  "tree",  "road", "door",  "glass", "rain"};
  const Rng rng{seed, 0};
  std::uint64_t next = 0;
  std::string all;
  for (int i = 0; i < count; ++i) {
    std::string text;
    for (int word = 0; word < 80; ++word)
      text += std::string(kWords[rng.below(std::size(kWords), next++)]) +
              (word % 9 == 8 ? ".\\n" : " ");
    all += "{\"text\": \"" + text + "\"}\n";
  }
  return all;
}

Prepared::Prepared(Until until) {
  write("text.jsonl", documents(200));
  write("mini.json", mini().dump());
  succeed({"tokenizer", "train", "text.jsonl", "--vocab", "320", "--out", "tokenizer.model"});
  if (until == Until::tokenizer) return;
  succeed({"prepare", "text.jsonl", "--tokenizer", "tokenizer.model", "--out", "data",
           "--validation", "0.2"});
  if (until == Until::data) return;
  succeed({"train", "mini.json", "--data", "data", "--out", "run", "--threads", "2"});
}

}  // namespace samba::test
