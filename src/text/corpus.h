#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace samba {

struct Document {
  std::string text;   ///< UTF-8
  std::string place;  ///< where it was read, for errors: "file" or "file:line"
};

/// The files that these paths name: files as they are, folders with everything below them in the
/// order of their names, save names that begin with a dot. Throws an Error on a path that does not
/// exist and on a folder without files.
std::vector<std::string> corpus_files(const std::vector<std::string>& paths);

/// Documents of files, one after the other, in memory that does not grow with the files.
///   .jsonl  one JSON object a line, the text in its field "text"; blank lines are skipped
///   other   the whole file is one document
/// with .zst after either: compressed by zstd (a window of at most 2^27 bytes).
class Corpus {
 public:
  /// Opens nothing yet. A document may have at most 1 GiB.
  explicit Corpus(std::vector<std::string> files);
  ~Corpus();
  Corpus(Corpus&&) noexcept;

  /// Reads the next document; false when there is none. Throws an Error that names the file, and
  /// the line where there are lines, on bad JSON, on a missing text, on text that is not UTF-8 and
  /// on a damaged or truncated file.
  bool next(Document&);

  /// Bytes of the files as they lie on the disk, for progress.
  std::uint64_t bytes_read() const;
  std::uint64_t bytes_total() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace samba
