#pragma once

#include <string>

#include "model/layout.h"
#include "model/tensors.h"

namespace samba {

/// A checkpoint of karpathy/llama2.c, version 0: seven 32-bit numbers (width, MLP width, layers,
/// heads, key-value heads, vocabulary, longest sequence), then the weights of a Llama in f32, layer
/// after layer for each kind. A negative vocabulary says that the head is a matrix of its own.

/// Whether a MODEL argument is such a file, by its name.
bool is_llama2c(const std::string& path);

/// The model that the header describes. Its heads are rotated in pairs of neighbours, ours in
/// halves: the rows of queries and keys change places.
Layout llama2c_layout(const std::string& path);

/// The weights under names like "layers.0.attention.wq.weight". Throws an Error unless the file is
/// as long as the header says.
TensorFile open_llama2c(const std::string& path);

}  // namespace samba
