#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "model/bytes.h"

/// Builds the bytes of torch.save files, right and wrong ones.
namespace samba::test::torch {

using Files = std::vector<std::pair<std::string, std::string>>;

/// A zip archive of stored files; `zip64` moves all sizes and offsets into zip64 records.
inline std::string zip(const Files& files, bool zip64 = false) {
  const auto u16 = [](std::size_t value) { return bytes_of(static_cast<std::uint16_t>(value)); };
  const auto u32 = [](std::size_t value) { return bytes_of(static_cast<std::uint32_t>(value)); };
  const auto u64 = [](std::size_t value) { return bytes_of(static_cast<std::uint64_t>(value)); };
  const std::size_t large = 0xffffffff;
  std::string archive, directory;
  for (const auto& [name, data] : files) {
    const std::size_t size = zip64 ? large : data.size(), at = zip64 ? large : archive.size();
    const std::string extra = zip64 ? u16(9) + u16(1) + "x" + u16(1) + u16(24) + u64(data.size()) +
                                          u64(data.size()) + u64(archive.size())
                                    : "";
    directory += "PK\1\2" + std::string(16, '\0') + u32(size) + u32(size) + u16(name.size()) +
                 u16(extra.size()) + std::string(10, '\0') + u32(at) + name + extra;
    archive += "PK\3\4" + std::string(22, '\0') + u16(name.size()) + u16(3) + name + "pad" + data;
  }
  const std::size_t begin = archive.size(), end = begin + directory.size();
  archive += directory;
  if (zip64)
    archive += "PK\6\6" + std::string(28, '\0') + u64(files.size()) + u64(directory.size()) +
               u64(begin) + "PK\6\7" + std::string(4, '\0') + u64(end) + std::string(4, '\0');
  archive += "PK\5\6" + std::string(4, '\0') + std::string(2, '\0') +
             u16(zip64 ? 0xffff : files.size()) + u32(zip64 ? large : directory.size()) +
             u32(zip64 ? large : begin) + u16(0);
  return archive;
}

inline std::string text(const std::string& value) {
  return "X" + bytes_of(static_cast<std::uint32_t>(value.size())) + value;
}
/// As a long of 8 bytes.
inline std::string integer(std::int64_t value) {
  return "\x8a\x08" + bytes_of(value);
}
inline std::string tuple(const std::vector<std::string>& values) {
  std::string all = "(";
  for (const std::string& value : values) all += value;
  return all + "t";
}
inline std::string integers(const std::vector<std::int64_t>& values) {
  std::vector<std::string> all;
  for (const std::int64_t value : values) all.push_back(integer(value));
  return tuple(all);
}
inline std::string dict(const Files& items) {
  std::string all = "}(";
  for (const auto& [key, value] : items) all += text(key) + value;
  return all + "u";
}
inline std::string global(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}
inline std::string ordered_dict() {
  return global("collections", "OrderedDict") + ")R";
}
inline std::string storage(const std::string& type, const std::string& key, std::int64_t count) {
  return tuple(
             {text("storage"), global("torch", type), text(key), text("cuda:0"), integer(count)}) +
         "Q";
}
inline std::string tensor(const std::string& stored, std::int64_t offset,
                          const std::vector<std::int64_t>& shape,
                          const std::vector<std::int64_t>& strides) {
  return global("torch._utils", "_rebuild_tensor_v2") +
         tuple({stored, integer(offset), integers(shape), integers(strides), "\x89",
                ordered_dict()}) +
         "R";
}

/// The archive of a pickle, without its first and last opcode, and storage "0".
inline std::string save(const std::string& pickled, const std::string& data) {
  return zip(
      {{"x/data.pkl", "\x80\x02" + pickled + "."}, {"x/data/0", data}, {"x/version", "3\n"}});
}

}  // namespace samba::test::torch
