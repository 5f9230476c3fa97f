#pragma once

#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <string_view>

namespace samba {

/// A file's bytes, mapped for reading. The mapping lives as long as the object.
class MappedFile {
 public:
  MappedFile() = default;
  /// Throws an Error that names the path and what the system says.
  explicit MappedFile(const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// A file that appears under its name whole or not at all: bytes go to a temporary name beside it,
/// commit() flushes them to the disk and renames. Without commit() nothing is left behind. Every
/// call throws an Error that names the path, on a full disk too.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, std::size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  /// Overwrites bytes that were written before, e.g. a header whose counts are known at the end.
  void write_at(std::size_t offset, const void* data, std::size_t bytes);
  void commit();

 private:
  std::string path_;
  std::string temporary_;
  int file_ = -1;
  std::string buffer_;
  void flush();
};

/// The whole file as text. Throws an Error, also above `limit` bytes.
std::string read_text(const std::string& path, std::size_t limit = std::size_t{1} << 30);

/// Writes text as an AtomicFile.
void write_text(const std::string& path, std::string_view text);

/// Whether there is something of this name; whether it is a folder. Throw an Error where the system
/// does not say, as below a folder that may not be read.
bool exists(const std::string& path);
bool is_folder(const std::string& path);

/// Makes the folder and its parents; an Error names the path and what the system says.
void make_folder(const std::string& path);

/// Flushes a folder's entries to the disk, so that a rename in it survives a power cut.
void sync_folder(const std::string& path);

}  // namespace samba
