#include "model/pth.h"

#include <algorithm>

#include "core/error.h"
#include "model/pickle.h"
#include "model/zip.h"

namespace samba {
namespace {

constexpr std::string_view kPickleName = "/data.pkl";

/// The files of the archive under its root folder, which torch.save names after the file.
class Archive {
 public:
  Archive(std::span<const std::byte> bytes, const std::string& path)
      : path_(path), entries_(read_stored_zip(bytes, path)) {
    std::sort(entries_.begin(), entries_.end(),
              [](const ZipEntry& a, const ZipEntry& b) { return a.name < b.name; });
    for (std::size_t i = 1; i < entries_.size(); ++i)
      if (entries_[i].name == entries_[i - 1].name)
        fail(path_, ": zip: entry ", in_quotes(entries_[i].name),
             " is there twice; expected each name once");
    for (const ZipEntry& entry : entries_) {
      const std::size_t slash = entry.name.find('/');
      if (slash == std::string_view::npos || entry.name.substr(slash) != kPickleName) continue;
      if (!root_.empty()) fail(path_, ": found two data.pkl; expected one");
      root_ = entry.name.substr(0, slash);
    }
    if (root_.empty()) fail(path_, ": found no FOLDER/data.pkl; expected a file of torch.save");
  }

  /// Null where the root folder holds no such file.
  const ZipEntry* find(std::string_view name) const {
    const std::string whole = std::string(root_) + "/" + std::string(name);
    const auto entry =
        std::lower_bound(entries_.begin(), entries_.end(), whole,
                         [](const ZipEntry& e, const std::string& n) { return e.name < n; });
    return entry != entries_.end() && entry->name == whole ? &*entry : nullptr;
  }

 private:
  const std::string& path_;
  std::vector<ZipEntry> entries_;
  std::string_view root_;
};

/// One more than the place in its storage of the tensor's last element, 0 for an empty tensor;
/// nothing where that overflows.
std::optional<Index> extent_of(const PickledTensor& tensor) {
  Index last = tensor.offset;
  for (std::size_t d = 0; d < tensor.shape.size(); ++d) {
    if (tensor.shape[d] == 0) return 0;
    Index reach = 0;
    if (__builtin_mul_overflow(tensor.shape[d] - 1, tensor.strides[d], &reach) ||
        __builtin_add_overflow(last, reach, &last))
      return std::nullopt;
  }
  Index extent = 0;
  if (__builtin_add_overflow(last, 1, &extent)) return std::nullopt;
  return extent;
}

TensorInfo locate(const Archive& archive, PickledTensor& tensor, const std::string& path) {
  const std::string name = in_quotes(tensor.name);
  const ZipEntry* storage = archive.find("data/" + std::string(tensor.storage));
  if (storage == nullptr)
    fail(path, ": tensor ", name, ": found no storage ", in_quotes(tensor.storage),
         "; expected it in the folder data");
  const Index room = static_cast<Index>(storage->bytes.size()) / size_of(tensor.type);
  if (tensor.storage_count > room)
    fail(path, ": tensor ", name, ": found a storage of ", storage->bytes.size(),
         " bytes; expected ", tensor.storage_count, " elements of ", name_of(tensor.type));
  const std::optional<Index> count = count_of(tensor.shape), extent = extent_of(tensor);
  if (!count || !extent || *count > tensor.storage_count || *extent > tensor.storage_count)
    fail(path, ": tensor ", name, ": found shape ", text_of_shape(tensor.shape), ", strides ",
         text_of_shape(tensor.strides), " and offset ", tensor.offset, "; expected them inside of ",
         tensor.storage_count, " elements");
  TensorInfo info{std::string(tensor.name), tensor.type, std::move(tensor.shape),
                  std::move(tensor.strides), storage->bytes.data()};
  if (*count == 0) {
    info.strides = row_major_strides(info.shape);
    return info;
  }
  info.data += tensor.offset * size_of(tensor.type);
  // The stride of a dimension of 1 means nothing and may be any number.
  for (std::size_t d = 0; d < info.shape.size(); ++d)
    if (info.shape[d] == 1) info.strides[d] = 0;
  return info;
}

}  // namespace

TensorFile open_pth(const std::string& path) {
  std::vector<MappedFile> files;
  files.emplace_back(path);
  const Archive archive(files.front().bytes(), path);
  if (const ZipEntry* order = archive.find("byteorder")) {
    const std::string_view found(reinterpret_cast<const char*>(order->bytes.data()),
                                 order->bytes.size());
    if (found != "little")
      fail(path, ": found byte order ", in_quotes(found), "; expected \"little\"");
  }
  std::vector<TensorInfo> tensors;
  for (PickledTensor& tensor : read_pickled_tensors(archive.find("data.pkl")->bytes, path))
    tensors.push_back(locate(archive, tensor, path));
  return TensorFile(path, std::move(files), std::move(tensors));
}

}  // namespace samba
