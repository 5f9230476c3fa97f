#pragma once

#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "model/tensors.h"

namespace samba {

/// Opens one safetensors file. Throws an Error unless everything that the header claims is true of
/// the file: sizes, offsets, no byte of the data outside of a tensor or in two.
TensorFile open_safetensors(const std::string& path);

/// Opens the shards that a model.safetensors.index.json names, all from the folder it lies in.
TensorFile open_sharded_safetensors(const std::string& index_path);

/// Collects tensors and writes them, in the order they were added, as one safetensors file.
class SafetensorsWriter {
 public:
  using Put = std::function<void(std::span<const std::byte>)>;

  /// Free text of the header; the HF libraries expect {"format", "pt"}.
  void metadata(std::string key, std::string value);

  /// Adds a view that must stay as it is until write(). Its elements become `type`: F64, F32 and
  /// BF16 from any float dtype, I32 and I64 from i32. The shape's elements must be as many.
  void add(std::string name, StoredType type, std::vector<Index> shape, ConstView values);
  /// The same in the view's own type and shape, [rows, cols].
  void add(std::string name, ConstView values);
  /// Adds a tensor whose bytes `fill` hands over, in row-major order, while write() runs.
  void add(std::string name, StoredType type, std::vector<Index> shape,
           std::function<void(const Put&)> fill);

  /// Writes the file as an AtomicFile. Throws an Error, also where a tensor's `fill` hands over
  /// more or fewer bytes than its shape has.
  void write(const std::string& path) const;

 private:
  struct Tensor {
    std::string name;
    StoredType type;
    std::vector<Index> shape;
    Index bytes;
    std::function<void(const Put&)> fill;
  };
  std::vector<Tensor> tensors_;
  std::map<std::string, std::string> metadata_;

  std::string header() const;
};

}  // namespace samba
