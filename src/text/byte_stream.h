#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace samba {

/// A file read from its beginning to its end, decompressed when its name ends in .zst.
class ByteStream {
 public:
  /// Throws an Error that names the path and what the system says.
  explicit ByteStream(const std::string& path);
  ~ByteStream();
  ByteStream(ByteStream&&) noexcept;

  /// Fills `data` as far as possible; fewer than `bytes` come only at the end. Throws an Error on
  /// compressed data that are damaged or end too early.
  std::size_t read(char* data, std::size_t bytes);
  /// Bytes taken from the file so far, compressed as they are.
  std::uint64_t consumed() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace samba
