#pragma once

#include <string_view>

#include "model/tensors.h"
#include "text/token_model.h"

// What a user does with a file that has been loaded.

namespace samba::fuzz {

/// Reads the first tensors, a million elements at most, as stored and in every type.
void use(const TensorFile&);

/// Encodes and decodes; `text` is one text of several. Aborts where the fast side of a tokenizer
/// gives other ids than the slow one.
void use(const TokenModel&, std::string_view text);

}  // namespace samba::fuzz
