#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/stored_type.h"

namespace samba {

/// A tensor as a pickle of torch.save describes it: elements of a storage, which is a file of the
/// archive. Nothing of it has been compared with that file.
struct PickledTensor {
  std::string_view name;
  std::string_view storage;  ///< the storage's key
  StoredType type;
  Index storage_count;  ///< elements of the storage
  Index offset;         ///< of the first element, in elements
  std::vector<Index> shape;
  std::vector<Index> strides;  ///< as many as dimensions; no number is negative
};

/// The tensors of a pickled checkpoint: those of the dict under "model" where the checkpoint is a
/// dict that has one, else those of the dict itself; values that are no tensors are passed over.
///
/// The pickle is read as data. It may build dicts, lists, tuples, strings, numbers, None, storages
/// and tensors, with protocol 2; an Error names any other global or opcode. Memory is bounded by a
/// constant and by the pickle's length, and nesting takes no stack. What is returned points into
/// `pickle`; path stands in messages.
std::vector<PickledTensor> read_pickled_tensors(std::span<const std::byte> pickle,
                                                const std::string& path);

}  // namespace samba
