#include <array>
#include <filesystem>
#include <optional>

#include "core/error.h"
#include "core/files.h"
#include "model/tensor_writer.h"
#include "model/tensors.h"

// PKWARE's APPNOTE 6.3 for the archive, Python's pickletools for the opcodes of protocol 2.

namespace samba {
namespace {

constexpr std::uint64_t kWide = 0xffffffff;  // what stands for a number in its zip64 field
constexpr std::size_t kAlignment = 64;       // of a storage in the archive, as torch.save has it
constexpr std::size_t kLocalHeader = 30;

template <class Number>
std::string bytes_of(Number value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}
std::string u16(std::size_t value) {
  return bytes_of(static_cast<std::uint16_t>(value));
}
std::string u32(std::uint64_t value) {
  return bytes_of(static_cast<std::uint32_t>(value));
}
std::string narrow(std::uint64_t value) {
  return u32(std::min(value, kWide));
}

std::optional<const char*> storage_name(StoredType type) {
  switch (type) {
    case StoredType::f64: return "DoubleStorage";
    case StoredType::f32: return "FloatStorage";
    case StoredType::f16: return "HalfStorage";
    case StoredType::bf16: return "BFloat16Storage";
    case StoredType::i64: return "LongStorage";
    case StoredType::i32: return "IntStorage";
    case StoredType::i16: return "ShortStorage";
    case StoredType::i8: return "CharStorage";
    case StoredType::u8: return "ByteStorage";
    case StoredType::boolean: return "BoolStorage";
    default: return std::nullopt;
  }
}

/// CRC-32 of ISO 3309, continued from `crc` (0 at first).
std::uint32_t crc32(std::uint32_t crc, std::span<const std::byte> bytes) {
  static const std::array<std::uint32_t, 256> table = [] {
    std::array<std::uint32_t, 256> all{};
    for (std::uint32_t i = 0; i < all.size(); ++i) {
      std::uint32_t rest = i;
      for (int bit = 0; bit < 8; ++bit) rest = rest >> 1 ^ (rest & 1 ? 0xedb88320u : 0);
      all[i] = rest;
    }
    return all;
  }();
  crc = ~crc;
  for (const std::byte b : bytes)
    crc = table[(crc ^ static_cast<std::uint8_t>(b)) & 0xff] ^ crc >> 8;
  return ~crc;
}

/// Writes stored files one behind the other, then the directory.
class Archive {
 public:
  /// All files lie below the folder `root`.
  Archive(const std::string& path, std::string root) : file_(path), root_(std::move(root)) {}

  /// `fill` hands over `size` bytes.
  void add(const std::string& name, std::uint64_t size,
           const std::function<void(const TensorWriter::Put&)>& fill) {
    const std::string path = root_ + "/" + name;
    // Sizes of 4 GiB and more stand in an extra field, and another pads the header.
    const std::string wide =
        size >= kWide ? u16(1) + u16(16) + bytes_of(size) + bytes_of(size) : std::string();
    const std::size_t begin = end_ + kLocalHeader + path.size() + wide.size() + 4;
    const std::size_t pad = (kAlignment - begin % kAlignment) % kAlignment;
    const std::uint64_t at = end_;
    write("PK\3\4" + common(0, size, path, wide.size() + 4 + pad) + path + wide + "FB" + u16(pad) +
          std::string(pad, 'Z'));
    std::uint32_t crc = 0;
    fill([&](std::span<const std::byte> bytes) {
      crc = crc32(crc, bytes);
      file_.write(bytes.data(), bytes.size());
      end_ += bytes.size();
    });
    file_.write_at(at + kCrc, &crc, sizeof(crc));
    std::string extra;
    if (size >= kWide) extra += bytes_of(size) + bytes_of(size);
    if (at >= kWide) extra += bytes_of(at);
    if (!extra.empty()) extra = u16(1) + u16(extra.size()) + extra;
    directory_ += "PK\1\2" + u16(kVersion) + common(crc, size, path, extra.size()) +
                  std::string(10, '\0') + narrow(at) + path + extra;
    ++files_;
  }
  void add(const std::string& name, const std::string& text) {
    add(name, text.size(),
        [&](const TensorWriter::Put& put) { put(std::as_bytes(std::span(text))); });
  }

  void commit() {
    const std::uint64_t begin = end_, size = directory_.size();
    write(directory_);
    if (begin >= kWide || size >= kWide || files_ >= 0xffff) {
      const std::uint64_t at = end_;
      write("PK\6\6" + bytes_of(std::uint64_t{44}) + u16(kVersion) + u16(kVersion) + u32(0) +
            u32(0) + bytes_of(files_) + bytes_of(files_) + bytes_of(size) + bytes_of(begin));
      write("PK\6\7" + u32(0) + bytes_of(at) + u32(1));
    }
    const std::string files = u16(std::min<std::uint64_t>(files_, 0xffff));
    write("PK\5\6" + u32(0) + files + files + narrow(size) + narrow(begin) + u16(0));
    file_.commit();
  }

 private:
  static constexpr std::size_t kVersion = 45;  // of the format: zip64
  static constexpr std::size_t kCrc = 14;      // where it stands in a local header

  /// What the headers before a file and in the directory have in common. The date is 1980-01-01.
  static std::string common(std::uint32_t crc, std::uint64_t size, const std::string& path,
                            std::size_t extra) {
    return u16(kVersion) + u16(0) + u16(0) + u16(0) + u16(0x21) + u32(crc) + narrow(size) +
           narrow(size) + u16(path.size()) + u16(extra);
  }
  void write(const std::string& bytes) {
    file_.write(bytes);
    end_ += bytes.size();
  }

  AtomicFile file_;
  std::string root_;
  std::uint64_t end_ = 0;
  std::uint64_t files_ = 0;
  std::string directory_;
};

std::string pickled(const std::string& text) {
  return "X" + u32(text.size()) + text;
}
std::string pickled(Index number) {
  if (number < Index{1} << 31) return "J" + u32(static_cast<std::uint64_t>(number));
  return "\x8a\x08" + bytes_of(number);
}
std::string pickled(const std::vector<Index>& numbers) {
  std::string all = "(";
  for (const Index n : numbers) all += pickled(n);
  return all + "t";
}

/// A call of torch._utils._rebuild_tensor_v2.
std::string pickled_tensor(const char* storage, std::size_t key, const std::vector<Index>& shape) {
  const Index count = count_of(shape).value();
  return "ctorch._utils\n_rebuild_tensor_v2\n((" + pickled("storage") + "ctorch\n" + storage +
         "\n" + pickled(std::to_string(key)) + pickled("cpu") + pickled(count) + "tQ" +
         pickled(Index{0}) + pickled(shape) + pickled(row_major_strides(shape)) +
         "\x89"
         "ccollections\nOrderedDict\n)RtR";
}

}  // namespace

void TensorWriter::write_pth(const std::string& path, const std::string& key) const {
  expect_names_once();
  std::string pickle = "\x80\2";
  if (!key.empty()) pickle += "}" + pickled(key);
  pickle += "ccollections\nOrderedDict\n)R(";
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    const std::optional<const char*> storage = storage_name(tensors_[i].type);
    if (!storage)
      fail(path, ": tensor ", in_quotes(tensors_[i].name), ": torch has no storage of ",
           name_of(tensors_[i].type));
    pickle += pickled(tensors_[i].name) + pickled_tensor(*storage, i, tensors_[i].shape);
  }
  pickle += key.empty() ? "u." : "us.";

  Archive archive(path, std::filesystem::path(path).stem().string());
  archive.add("data.pkl", pickle);
  archive.add("byteorder", "little");
  for (std::size_t i = 0; i < tensors_.size(); ++i)
    archive.add("data/" + std::to_string(i), static_cast<std::uint64_t>(tensors_[i].bytes),
                [&](const Put& put) { tensors_[i].put_into(path, put); });
  archive.add("version", "3\n");
  archive.commit();
}

}  // namespace samba
