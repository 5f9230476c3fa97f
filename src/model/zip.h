#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace samba {

/// A file inside of a zip archive. Both point into the archive's bytes.
struct ZipEntry {
  std::string_view name;
  std::span<const std::byte> bytes;
};

/// Lists a zip archive (also zip64) whose files are stored, not compressed: PKWARE's APPNOTE 6.3.
/// Sizes are those of the central directory; checksums are not looked at. path stands in messages.
/// Throws an Error unless all files lie inside of the archive, apart from each other.
std::vector<ZipEntry> read_stored_zip(std::span<const std::byte> archive, const std::string& path);

}  // namespace samba
