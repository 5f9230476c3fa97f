#pragma once

#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "core/matrix.h"
#include "model/stored_type.h"

namespace samba {

/// Collects tensors and writes them, in the order they were added, as one file.
class TensorWriter {
 public:
  using Put = std::function<void(std::span<const std::byte>)>;

  /// Free text of a safetensors header; the HF libraries expect {"format", "pt"}.
  void metadata(std::string key, std::string value);

  /// Adds a view that must stay as it is until it is written. Its elements become `type`: F64, F32
  /// and BF16 from any float dtype, I32 and I64 from i32. The shape's elements must be as many.
  void add(std::string name, StoredType type, std::vector<Index> shape, ConstView values);
  /// The same in the view's own type and shape, [rows, cols].
  void add(std::string name, ConstView values);
  /// Adds a tensor whose bytes `fill` hands over, in row-major order, while the file is written.
  void add(std::string name, StoredType type, std::vector<Index> shape,
           std::function<void(const Put&)> fill);

  /// Both write the file as an AtomicFile. They throw an Error, also where a tensor's `fill` hands
  /// over more or fewer bytes than its shape has.
  void write_safetensors(const std::string& path) const;
  /// As torch.save does since version 1.6: an archive of stored files, one for each tensor, and a
  /// pickle that describes them. It holds the dict of the tensors, or, where `key` is not empty, a
  /// dict with that one below it. Types that torch lacks are an Error.
  void write_pth(const std::string& path, const std::string& key = {}) const;

 private:
  struct Tensor {
    std::string name;
    StoredType type;
    std::vector<Index> shape;
    Index bytes;
    std::function<void(const Put&)> fill;

    /// Hands over all bytes; an Error where they are not as many as they should be.
    void put_into(const std::string& path, const Put&) const;
  };
  std::vector<Tensor> tensors_;
  std::map<std::string, std::string> metadata_;

  std::string header() const;
  /// Throws an Error where two tensors have one name.
  void expect_names_once() const;
};

}  // namespace samba
