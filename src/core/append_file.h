#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace samba {

/// A file that grows while others may be reading it. Every call is one write to the system, so a
/// crash can tear only the last piece. Every call throws an Error that names the path.
class AppendFile {
 public:
  /// Opens the file and cuts it down to its first `keep` bytes; makes it when it does not exist.
  AppendFile(std::string path, std::size_t keep);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  void append(std::string_view bytes);
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  int file_ = -1;
};

}  // namespace samba
