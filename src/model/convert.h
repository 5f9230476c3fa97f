#pragma once

#include <functional>
#include <optional>
#include <string>

#include "model/folder.h"

namespace samba {

/// Writes the model into a new folder in the layout `kind`: config.json, model.safetensors and what
/// else lies beside the source's weights under the names of tokenizers and generation settings.
/// Weights keep the type that they are stored in, bit for bit, or become `type`.
///
/// The folder appears whole or not at all. Throws an Error where it exists, where the source has no
/// weights (a preset), and with the reason where the layout cannot express the model.
/// `progress` is told the tensors that are done, and of how many; `add` may write more files into
/// the folder before it appears.
void convert_model(const ModelSource&, const std::string& kind, const std::string& folder,
                   std::optional<DType> type, const std::function<void(Index, Index)>& progress,
                   const std::function<void(const std::string& folder)>& add);

}  // namespace samba
