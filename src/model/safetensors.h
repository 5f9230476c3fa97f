#pragma once

#include <string>

#include "model/tensors.h"

namespace samba {

/// Opens one safetensors file. Throws an Error unless everything that the header claims is true of
/// the file: sizes, offsets, no byte of the data outside of a tensor or in two.
TensorFile open_safetensors(const std::string& path);

/// Opens the shards that a model.safetensors.index.json names, all from the folder it lies in.
TensorFile open_sharded_safetensors(const std::string& index_path);

}  // namespace samba
