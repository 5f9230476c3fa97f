#pragma once

#include <map>
#include <string>
#include <vector>

#include "model/config.h"

namespace samba {

/// Rows of a tensor in a model folder that are rows of a parameter of ours, or a part of its
/// columns.
struct TensorRows {
  std::string tensor;
  Index tensor_row;
  std::string parameter;
  Index row;
  Index rows;
  Index column = 0;  ///< of the parameter
  Index cols = 0;    ///< of the tensor; 0: as many as the parameter's
};

/// The dimensions of a published tensor.
enum class TensorForm {
  matrix,  ///< [rows, cols]
  vector,  ///< [cols], a row of ours
  taps,    ///< [rows, 1, cols]
};

/// How a model folder names and orders its weights, and the model they belong to.
struct Layout {
  /// "sambalm", "lit_gpt", "llama", "mistral", "mamba", "state_spaces", "samba", "gla", "retnet"
  std::string kind;
  ModelConfig config;
  std::vector<TensorRows> pieces;  ///< empty for our own layout: every parameter under its own name
  /// Second names of tied tensors, to the name in `pieces`.
  std::map<std::string, std::string> aliases;
  std::map<std::string, TensorForm> forms;  ///< of tensors that are no matrix
};

/// Recognises the layout of a folder by its config.json: ours ("layers"), microsoft/Samba's
/// ("n_embd"), state-spaces/mamba's ("d_model" and "n_layer"), or by its "model_type" Hugging
/// Face's llama, mistral and mamba and flash-linear-attention's samba, gla and retnet. `place`
/// begins every error; what our layers cannot express is refused with its key.
Layout layout_of(const Json& config, const std::string& place);

/// The kinds of layouts, ours among them.
std::vector<std::string> layout_kinds();

/// The configuration that describes the model in a layout. Throws an Error with the reason where
/// the layout cannot express the model.
Json published_config(const ModelConfig&, const std::string& kind);

/// Whether a tensor of a published checkpoint is a buffer without meaning here.
bool is_buffer(const std::string& tensor);

}  // namespace samba
