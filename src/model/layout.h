#pragma once

#include <map>
#include <string>
#include <vector>

#include "model/config.h"

namespace samba {

/// Rows of a tensor in a model folder that are rows of a parameter of ours.
struct TensorRows {
  std::string tensor;
  Index tensor_row;
  std::string parameter;
  Index row;
  Index rows;
};

/// How a model folder names and orders its weights, and the model they belong to.
struct Layout {
  std::string kind;  ///< "sambalm", "lit_gpt", "llama", "mistral", "mamba"
  ModelConfig config;
  std::vector<TensorRows> pieces;  ///< empty for our own layout: every parameter under its own name
  /// Second names of tied tensors, to the name in `pieces`.
  std::map<std::string, std::string> aliases;
};

/// Recognises the layout of a folder by its config.json: ours ("layers"), microsoft/Samba's
/// ("n_embd"), Hugging Face's ("model_type": llama, mistral, mamba). `place` begins every error;
/// what our layers cannot express is refused with its key.
Layout layout_of(const Json& config, const std::string& place);

/// Whether a tensor of a published checkpoint is a buffer without meaning here.
bool is_buffer(const std::string& tensor);

}  // namespace samba
