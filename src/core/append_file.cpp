#include "core/append_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "core/error.h"

namespace samba {

AppendFile::AppendFile(std::string path, std::size_t keep) : path_(std::move(path)) {
  file_ = ::open(path_.c_str(), O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0666);
  if (file_ < 0) fail(path_, ": cannot write: ", std::strerror(errno));
  if (::ftruncate(file_, static_cast<off_t>(keep)) != 0) {
    const int error = errno;
    ::close(file_);
    fail(path_, ": cannot cut to ", keep, " bytes: ", std::strerror(error));
  }
}

AppendFile::~AppendFile() {
  ::close(file_);
}

void AppendFile::append(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(file_, bytes.data(), bytes.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      fail(path_, ": cannot write: ", std::strerror(errno));
    }
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
}

}  // namespace samba
