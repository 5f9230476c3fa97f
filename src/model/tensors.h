#pragma once

#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/files.h"
#include "core/matrix.h"
#include "model/stored_type.h"

namespace samba {

/// A named tensor of a weight file: what it is and where its elements lie.
struct TensorInfo {
  std::string name;
  StoredType type = StoredType::f32;
  std::vector<Index> shape;         ///< empty: a single element
  std::vector<Index> strides;       ///< elements between neighbours of each dimension
  const std::byte* data = nullptr;  ///< the first element, in the mapped file, at any alignment

  Index count() const;     ///< elements
  bool row_major() const;  ///< whether the elements lie one after the other
};

/// The product of the dimensions, or nothing where that of the dimensions above 0 overflows.
std::optional<Index> count_of(std::span<const Index> shape);
/// The strides of a tensor whose elements lie in row-major order. count_of(shape) must exist.
std::vector<Index> row_major_strides(std::span<const Index> shape);
/// "[2, 3]"
std::string text_of_shape(std::span<const Index> shape);
/// A name from a file for a message: in quotes, cut where very long, control characters as '?'.
std::string in_quotes(std::string_view name);

/// The tensors of an open weight file, or of all shards of one set, whatever the format. The file
/// stays mapped as long as the object lives; opening reads the header only.
class TensorFile {
 public:
  /// path stands in messages. Throws an Error where two tensors have one name.
  TensorFile(std::string path, std::vector<MappedFile>, std::vector<TensorInfo>,
             std::map<std::string, std::string> metadata = {});

  const std::string& path() const { return path_; }
  /// In the order of the file.
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  std::vector<std::string> names() const;
  /// Free text that the file carries beside the tensors.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  /// Null where the file has no tensor of that name.
  const TensorInfo* find(std::string_view name) const;
  /// Throws an Error where find() gives null, as do all below.
  const TensorInfo& at(std::string_view name) const;
  const std::vector<Index>& shape(std::string_view name) const { return at(name).shape; }

  /// Reads a tensor, converting as convert() does. The view's rows must be the product of the
  /// tensor's first k dimensions and its columns that of the others, for some k: [n] is read as
  /// [1 x n] or [n x 1], [E, 1, K] as [E x K], a single element as [1 x 1]; [2, 3] never as
  /// [3 x 2]. Throws an Error for another shape or dtype and for integers outside of i32.
  void read(std::string_view name, View to) const;

  /// Hands over the tensor's bytes as they are stored, in row-major order, in pieces.
  void each_piece(std::string_view name,
                  const std::function<void(std::span<const std::byte>)>& piece) const;

 private:
  std::string path_;
  std::vector<MappedFile> files_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, std::string> metadata_;
  std::vector<std::uint32_t> by_name_;  // places in tensors_, sorted by name
};

/// Opens the weights of a model folder: model.safetensors, else the shards that
/// model.safetensors.index.json lists, else the iter-*.pth of the highest iteration, else
/// pytorch_model.bin. Throws an Error where none is there or the file is damaged.
TensorFile open_model_tensors(const std::string& folder);

}  // namespace samba
