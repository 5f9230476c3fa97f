#include "model/zip.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "core/error.h"
#include "model/tensors.h"

namespace samba {
namespace {

constexpr std::uint32_t kLocalSignature = 0x04034b50;
constexpr std::uint32_t kCentralSignature = 0x02014b50;
constexpr std::uint32_t kEndSignature = 0x06054b50;
constexpr std::uint32_t kEnd64Signature = 0x06064b50;
constexpr std::uint32_t kLocatorSignature = 0x07064b50;
constexpr std::uint64_t kLocalBytes = 30;
constexpr std::uint64_t kCentralBytes = 46;
constexpr std::uint64_t kEndBytes = 22;
constexpr std::uint64_t kEnd64Bytes = 56;
constexpr std::uint64_t kLocatorBytes = 20;
constexpr std::uint64_t kLongestComment = 65535;
constexpr std::uint16_t kZip64Extra = 1;
constexpr std::uint32_t kIn64 = 0xffffffff;  // a 32-bit field whose value stands in a zip64 record
constexpr std::uint16_t kEncrypted = 1;

/// A stretch of the archive, read at offsets that are checked.
class Bytes {
 public:
  Bytes(std::span<const std::byte> bytes, const std::string& path) : bytes_(bytes), path_(path) {}

  std::uint64_t size() const { return bytes_.size(); }

  template <class T>
  T get(std::uint64_t at) const {
    T value;
    std::memcpy(&value, part(at, sizeof(T)).bytes_.data(), sizeof(T));
    return value;
  }
  Bytes part(std::uint64_t at, std::uint64_t count) const {
    if (at > size() || count > size() - at)
      refuse("a record that reaches beyond its place", "a whole one");
    return {bytes_.subspan(at, count), path_};
  }
  std::string_view text() const {
    return {reinterpret_cast<const char*>(bytes_.data()), bytes_.size()};
  }
  std::span<const std::byte> span() const { return bytes_; }

  [[noreturn]] void refuse(std::string_view found, std::string_view expected) const {
    fail(path_, ": zip: found ", found, "; expected ", expected);
  }

 private:
  std::span<const std::byte> bytes_;
  const std::string& path_;
};

/// Where the central directory lies.
struct Directory {
  std::uint64_t entries, size, offset;
};

/// The place of the end record: the last one whose comment reaches to the end of the file.
std::uint64_t find_end(const Bytes& archive) {
  if (archive.size() >= kEndBytes) {
    const std::uint64_t last = archive.size() - kEndBytes;
    for (std::uint64_t comment = 0; comment <= std::min(last, kLongestComment); ++comment) {
      const std::uint64_t at = last - comment;
      if (archive.get<std::uint32_t>(at) == kEndSignature &&
          archive.get<std::uint16_t>(at + 20) == comment)
        return at;
    }
  }
  archive.refuse("no end of a zip archive", "a file of torch.save since version 1.6");
}

Directory find_directory(const Bytes& archive) {
  const std::uint64_t end = find_end(archive);
  Directory directory{archive.get<std::uint16_t>(end + 10), archive.get<std::uint32_t>(end + 12),
                      archive.get<std::uint32_t>(end + 16)};
  std::uint64_t limit = end;
  if (end >= kLocatorBytes &&
      archive.get<std::uint32_t>(end - kLocatorBytes) == kLocatorSignature) {
    limit = archive.get<std::uint64_t>(end - kLocatorBytes + 8);
    const Bytes record = archive.part(limit, kEnd64Bytes);
    if (record.get<std::uint32_t>(0) != kEnd64Signature)
      archive.refuse("a lost zip64 record", "one where its locator points");
    directory = {record.get<std::uint64_t>(32), record.get<std::uint64_t>(40),
                 record.get<std::uint64_t>(48)};
  }
  if (directory.offset > limit || directory.size > limit - directory.offset)
    archive.refuse("a directory beyond the end of the archive", "it before the end record");
  return directory;
}

/// An entry and the part of the archive that it takes, its local header included.
struct Extent {
  ZipEntry entry;
  std::uint64_t begin, end;
};

/// The sizes and the place of an entry, from its central record or the record's zip64 field.
struct Sizes {
  std::uint64_t stored, whole, local;
};

Sizes sizes_of(const Bytes& record, const Bytes& extra) {
  Sizes sizes{record.get<std::uint32_t>(20), record.get<std::uint32_t>(24),
              record.get<std::uint32_t>(42)};
  std::uint64_t* wide[] = {&sizes.whole, &sizes.stored, &sizes.local};  // in the field's order
  if (std::none_of(std::begin(wide), std::end(wide), [](auto* size) { return *size == kIn64; }))
    return sizes;
  for (std::uint64_t at = 0; at < extra.size();) {
    const Bytes field = extra.part(at + 4, extra.get<std::uint16_t>(at + 2));
    if (extra.get<std::uint16_t>(at) == kZip64Extra) {
      std::uint64_t next = 0;
      for (std::uint64_t* size : wide) {
        if (*size != kIn64) continue;
        *size = field.get<std::uint64_t>(next);
        next += 8;
      }
      return sizes;
    }
    at += 4 + field.size();
  }
  record.refuse("an entry of 2^32 - 1 bytes without a zip64 field", "the field");
}

/// Reads the entry of one central record. `archive` ends where the central directory begins.
Extent read_entry(const Bytes& archive, const Bytes& record, const Bytes& name,
                  const Bytes& extra) {
  const Sizes sizes = sizes_of(record, extra);
  const std::string shown = in_quotes(name.text());
  if (record.get<std::uint16_t>(8) & kEncrypted)
    archive.refuse("encrypted entry " + shown, "stored ones only");
  if (record.get<std::uint16_t>(10) != 0 || sizes.stored != sizes.whole)
    archive.refuse("compressed entry " + shown, "stored ones only");
  const Bytes local = archive.part(sizes.local, kLocalBytes);
  if (local.get<std::uint32_t>(0) != kLocalSignature)
    archive.refuse("no entry " + shown + " where the directory says", "it there");
  const std::uint64_t name_bytes = local.get<std::uint16_t>(26);
  const std::uint64_t extra_bytes = local.get<std::uint16_t>(28);
  const std::uint64_t name_begin = sizes.local + kLocalBytes;
  if (archive.part(name_begin, name_bytes).text() != name.text())
    archive.refuse("another name than " + shown + " where the directory says", "it there");
  const std::uint64_t begin = name_begin + name_bytes + extra_bytes;
  const Bytes bytes = archive.part(begin, sizes.whole);
  return {{name.text(), bytes.span()}, sizes.local, begin + sizes.whole};
}

}  // namespace

std::vector<ZipEntry> read_stored_zip(std::span<const std::byte> archive, const std::string& path) {
  const Bytes whole(archive, path);
  const Directory directory = find_directory(whole);
  const Bytes files = whole.part(0, directory.offset);
  const Bytes records = whole.part(directory.offset, directory.size);
  std::vector<Extent> extents;
  std::uint64_t at = 0;
  for (std::uint64_t i = 0; i < directory.entries; ++i) {
    const Bytes record = records.part(at, kCentralBytes);
    if (record.get<std::uint32_t>(0) != kCentralSignature)
      whole.refuse("no entry in the directory where one should begin", "one");
    const Bytes name = records.part(at + kCentralBytes, record.get<std::uint16_t>(28));
    at += kCentralBytes + name.size();
    const Bytes extra = records.part(at, record.get<std::uint16_t>(30));
    at += extra.size() + record.get<std::uint16_t>(32);
    extents.push_back(read_entry(files, record, name, extra));
  }
  if (at != directory.size)
    whole.refuse("a directory of another size than its entries", "them to fill it");
  std::sort(extents.begin(), extents.end(),
            [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
  std::vector<ZipEntry> entries;
  entries.reserve(extents.size());
  std::uint64_t end = 0;
  for (const Extent& extent : extents) {
    if (extent.begin < end)
      whole.refuse("entry " + in_quotes(extent.entry.name) + " inside of another", "it apart");
    end = extent.end;
    entries.push_back(extent.entry);
  }
  return entries;
}

}  // namespace samba
