#pragma once

#include <functional>
#include <optional>
#include <string>

#include "model/folder.h"

namespace samba {

struct Conversion {
  std::string kind;           ///< layout of the new folder
  std::optional<DType> type;  ///< of the stored weights; nothing: as they are, bit for bit
  bool pth = false;           ///< lit_gpt: an iter-*.pth as torch.save writes it
};

/// Writes the model into a new folder: config.json, the weights and what else lies beside the
/// source's under the names of tokenizers and generation settings. Weights become
/// model.safetensors, those of state_spaces pytorch_model.bin, the only file its code reads.
///
/// The folder appears whole or not at all. Throws an Error where it exists, where the source has no
/// weights (a preset), and with the reason where the layout cannot express the model.
/// `progress` is told the tensors that are done, and of how many; `add` may write more files into
/// the folder before it appears.
void convert_model(const ModelSource&, const Conversion&, const std::string& folder,
                   const std::function<void(Index, Index)>& progress,
                   const std::function<void(const std::string& folder)>& add);

}  // namespace samba
