#pragma once

#include <sys/types.h>

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/json.h"
#include "core/matrix.h"

/// Runs the program as its users do: as a process of its own, in a folder of its own.
namespace samba::test {

/// How a process ended and what it wrote.
struct Ended {
  int code = -1;   ///< of exit; -1 after a signal
  int signal = 0;  ///< that ended it
  std::string out;
  std::string err;
};

/// What a process finds around it.
struct Surroundings {
  std::string input = {};                ///< standard input
  std::string output = {};               ///< a file for standard output in place of Ended::out
  std::optional<Index> most_bytes = {};  ///< of a file that it writes: a full disk for everybody
  std::optional<uid_t> user = {};        ///< needs root
};

/// `sambalm` at work. A process that still runs when the object goes is killed; one that takes
/// minutes ends itself.
class Program {
 public:
  Program(const std::string& folder, const std::vector<std::string>& words,
          const Surroundings& = {});
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  void send(int signal) const;
  /// Whether it has said what is to happen at a signal: before that the signal just ends it.
  bool catches(int signal) const;
  /// Whether it has not ended yet.
  bool runs();
  /// Waits for its end.
  Ended end();

 private:
  pid_t process_ = -1;
  int out_ = -1, err_ = -1;
  std::optional<int> status_;
};

/// A folder in the build tree for one test. Everybody may read it.
class Workplace {
 public:
  Workplace();
  ~Workplace();
  Workplace(const Workplace&) = delete;
  Workplace& operator=(const Workplace&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

  Ended run(const std::vector<std::string>& words, const Surroundings& = {}) const;
  /// Fails the test unless the program exits 0. Returns its standard output.
  std::string succeed(const std::vector<std::string>& words, const Surroundings& = {}) const;
  /// The same with --json -, whose document must be all of standard output.
  Json result(std::vector<std::string> words, const Surroundings& = {}) const;
  /// Fails the test unless the program exits with `code`, says so in one line that holds every one
  /// of `parts`, and leaves the folder as it was.
  void refuse(int code, const std::vector<std::string>& words,
              const std::vector<std::string>& parts, const Surroundings& = {}) const;

  void write(const std::string& name, const std::string& bytes) const;
  std::string read(const std::string& name) const;
  /// Every path in the folder with its size.
  std::set<std::string> listing() const;

 private:
  std::string path_;
};

/// A configuration that trains in milliseconds, with one of its keys replaced or added.
Json mini(const Json& changes = Json::object());
/// Documents of a few dozen words, one JSON object a line.
std::string documents(int count, std::uint64_t seed = 1);

/// What most commands need, made by the program itself: `text.jsonl`, `tokenizer.model`, `data`,
/// `mini.json`, and `run` with a model of two steps.
class Prepared : public Workplace {
 public:
  enum class Until { tokenizer, data, model };
  explicit Prepared(Until until = Until::model);
};

}  // namespace samba::test
