#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace samba::fuzz {

/// A file in memory for what opens paths; it is written anew for every input. Reading a mapping of
/// it beyond its last byte is a fault, as of memory that was allocated.
class MemoryFile {
 public:
  MemoryFile();
  const std::string& write(const std::uint8_t* data, std::size_t size);

 private:
  int file_;
  std::string path_;
};

}  // namespace samba::fuzz
