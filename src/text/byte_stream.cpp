#include "text/byte_stream.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "core/error.h"

namespace samba {
namespace {

constexpr int kWindowBits = 27;  // what `zstd --long` writes

}  // namespace

struct ByteStream::State {
  std::string path;
  int file = -1;
  std::uint64_t consumed = 0;

  ZSTD_DStream* decoder = nullptr;  // null: not compressed
  std::vector<char> packed;
  ZSTD_inBuffer in{nullptr, 0, 0};
  bool inside_frame = true;

  ~State() {
    ZSTD_freeDStream(decoder);
    if (file >= 0) ::close(file);
  }

  std::size_t read_file(char* data, std::size_t bytes) {
    for (;;) {
      const ssize_t count = ::read(file, data, bytes);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) fail(path, ": cannot read: ", std::strerror(errno));
      consumed += static_cast<std::uint64_t>(count);
      return static_cast<std::size_t>(count);
    }
  }

  std::size_t read_packed(char* data, std::size_t bytes) {
    ZSTD_outBuffer out{data, bytes, 0};
    while (out.pos < out.size) {
      if (in.pos == in.size) {
        in = {packed.data(), read_file(packed.data(), packed.size()), 0};
        if (in.size == 0) {
          // What the decoder still holds comes out before the end of the file counts.
          const std::size_t before = out.pos;
          const std::size_t left = inside_frame ? ZSTD_decompressStream(decoder, &out, &in) : 0;
          if (out.pos > before) continue;
          if (left != 0) fail(path, ": truncated: the compressed data end too early");
          return out.pos;
        }
      }
      const std::size_t left = ZSTD_decompressStream(decoder, &out, &in);
      if (ZSTD_isError(left)) fail(path, ": cannot decompress: ", ZSTD_getErrorName(left));
      inside_frame = left != 0;
    }
    return out.pos;
  }
};

ByteStream::ByteStream(const std::string& path) : state_(std::make_unique<State>()) {
  state_->path = path;
  state_->file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (state_->file < 0) fail(path, ": cannot open: ", std::strerror(errno));
  if (!path.ends_with(".zst")) return;
  state_->decoder = ZSTD_createDStream();
  if (state_->decoder == nullptr) fail(path, ": no memory to decompress");
  ZSTD_DCtx_setParameter(state_->decoder, ZSTD_d_windowLogMax, kWindowBits);
  state_->packed.resize(ZSTD_DStreamInSize());
}

ByteStream::~ByteStream() = default;
ByteStream::ByteStream(ByteStream&&) noexcept = default;

std::size_t ByteStream::read(char* data, std::size_t bytes) {
  if (state_->decoder != nullptr) return state_->read_packed(data, bytes);
  std::size_t total = 0;
  while (total < bytes) {
    const std::size_t count = state_->read_file(data + total, bytes - total);
    if (count == 0) break;
    total += count;
  }
  return total;
}

std::uint64_t ByteStream::consumed() const {
  return state_->consumed;
}

}  // namespace samba
