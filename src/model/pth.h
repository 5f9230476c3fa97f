#pragma once

#include <string>

#include "model/tensors.h"

namespace samba {

/// Opens what torch.save wrote since version 1.6: a checkpoint that is a dict of tensors or holds
/// one under "model". It is parsed as data, and nothing of it is run (see model/pickle.h). Names
/// that share a storage, such as tied weights, point at the same bytes. Throws an Error unless
/// every tensor lies inside of its storage, without overlap of its own elements, and every storage
/// inside of the file.
TensorFile open_pth(const std::string& path);

}  // namespace samba
