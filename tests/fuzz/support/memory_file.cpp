#include "support/memory_file.h"

#include <sanitizer/asan_interface.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>

// The linker puts this in the place of mmap (cmake/fuzz.cmake), whose name for us is __real_mmap.
// NOLINTBEGIN(bugprone-reserved-identifier,readability-identifier-naming)
extern "C" void* __real_mmap(void*, std::size_t, int, int, int, off_t);

extern "C" void* __wrap_mmap(void* wanted, std::size_t size, int protection, int flags, int file,
                             off_t offset) {
  void* data = __real_mmap(wanted, size, protection, flags, file, offset);
  // The rest of the last page reads as zeros: only the sanitizer can tell it from the file.
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  if (data != MAP_FAILED && file >= 0)
    __asan_poison_memory_region(static_cast<char*>(data) + size, (page - size % page) % page);
  return data;
}
// NOLINTEND(bugprone-reserved-identifier,readability-identifier-naming)

namespace samba::fuzz {

MemoryFile::MemoryFile()
    : file_(::memfd_create("input", MFD_CLOEXEC)), path_("/proc/self/fd/" + std::to_string(file_)) {
  if (file_ < 0) std::abort();
}

const std::string& MemoryFile::write(const std::uint8_t* data, std::size_t size) {
  if (::ftruncate(file_, 0) != 0 || ::pwrite(file_, data, size, 0) != static_cast<ssize_t>(size))
    std::abort();
  return path_;
}

}  // namespace samba::fuzz
