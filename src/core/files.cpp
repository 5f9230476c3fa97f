#include "core/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "core/error.h"

namespace samba {
namespace {

constexpr std::size_t kBuffer = std::size_t{1} << 20;

[[noreturn]] void fail_system(const char* action, const std::string& path) {
  fail(path, ": ", action, ": ", std::strerror(errno));
}

void write_all(int file, const char* data, std::size_t bytes, const std::string& path) {
  while (bytes > 0) {
    const ssize_t written = ::write(file, data, bytes);
    if (written < 0) {
      if (errno == EINTR) continue;
      fail_system("cannot write", path);
    }
    data += written;
    bytes -= static_cast<std::size_t>(written);
  }
}

std::filesystem::file_status status_of(const std::string& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (status.type() == std::filesystem::file_type::none) fail(path, ": ", error.message());
  return status;
}

/// A pipe has no size, and cannot be mapped.
std::string read_pipe(const std::string& path, std::size_t limit) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) fail_system("cannot open", path);
  std::string text(kBuffer, '\0');
  std::size_t size = 0;
  ssize_t count = 1;
  while (count != 0 && size <= limit) {
    if (size == text.size()) text.resize(2 * size);
    count = ::read(file, text.data() + size, text.size() - size);
    if (count < 0 && errno != EINTR) break;
    if (count > 0) size += static_cast<std::size_t>(count);
  }
  const int error = errno;
  ::close(file);
  errno = error;
  if (count < 0) fail_system("cannot read", path);
  if (size > limit) fail(path, ": found more than ", limit, " bytes; expected at most ", limit);
  text.resize(size);
  return text;
}

}  // namespace

MappedFile::MappedFile(const std::string& path) : path_(path) {
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) fail_system("cannot open", path);
  struct stat status{};
  if (::fstat(file, &status) != 0 || S_ISDIR(status.st_mode)) {
    if (S_ISDIR(status.st_mode)) errno = EISDIR;
    const int error = errno;
    ::close(file);
    errno = error;
    fail_system("cannot read", path);
  }
  size_ = static_cast<std::size_t>(status.st_size);
  void* data = size_ == 0 ? nullptr : ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
  const int error = errno;
  ::close(file);
  errno = error;
  if (data == MAP_FAILED) fail_system("cannot map", path);
  data_ = static_cast<const std::byte*>(data);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

AtomicFile::AtomicFile(std::string path)
    : path_(std::move(path)), temporary_(path_ + ".tmp" + std::to_string(::getpid())) {
  file_ = ::open(temporary_.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0666);
  if (file_ < 0) fail_system("cannot write", path_);
  buffer_.reserve(kBuffer);
}

AtomicFile::~AtomicFile() {
  if (file_ < 0) return;
  ::close(file_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* data, std::size_t bytes) {
  if (buffer_.size() + bytes > kBuffer) flush();
  if (bytes >= kBuffer) return write_all(file_, static_cast<const char*>(data), bytes, path_);
  buffer_.append(static_cast<const char*>(data), bytes);
}

void AtomicFile::write_at(std::size_t offset, const void* data, std::size_t bytes) {
  flush();
  if (::lseek(file_, static_cast<off_t>(offset), SEEK_SET) < 0) fail_system("cannot write", path_);
  write_all(file_, static_cast<const char*>(data), bytes, path_);
  if (::lseek(file_, 0, SEEK_END) < 0) fail_system("cannot write", path_);
}

void AtomicFile::flush() {
  write_all(file_, buffer_.data(), buffer_.size(), path_);
  buffer_.clear();
}

void AtomicFile::commit() {
  flush();
  if (::fsync(file_) != 0) fail_system("cannot write", path_);
  if (::close(std::exchange(file_, -1)) != 0 || ::rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int error = errno;
    ::unlink(temporary_.c_str());
    errno = error;
    fail_system("cannot write", path_);
  }
  const std::string folder = std::filesystem::path(path_).parent_path().string();
  sync_folder(folder.empty() ? "." : folder);
}

std::string read_text(const std::string& path, std::size_t limit) {
  const auto type = status_of(path).type();
  if (type == std::filesystem::file_type::fifo) return read_pipe(path, limit);
  const MappedFile file(path);
  if (file.bytes().size() > limit)
    fail(path, ": found ", file.bytes().size(), " bytes; expected at most ", limit);
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

void write_text(const std::string& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

bool exists(const std::string& path) {
  return std::filesystem::exists(status_of(path));
}

bool is_folder(const std::string& path) {
  return std::filesystem::is_directory(status_of(path));
}

void make_folder(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) fail(path, ": cannot make the folder: ", error.message());
}

void sync_folder(const std::string& path) {
  const int folder = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) fail_system("cannot open", path);
  // Some file systems refuse to flush a folder; the rename itself has already happened.
  ::fsync(folder);
  ::close(folder);
}

}  // namespace samba
