#pragma once

#include <string>
#include <string_view>

namespace samba {

/// The SentencePiece model that a tokenizer file of karpathy/llama2.c was made from: the length of
/// the longest piece, then for each its score (f32), its length (i32) and its bytes, spaces in the
/// place of U+2581; ids 0 to 2 are the marks, 3 to 258 single bytes. Throws an Error that begins
/// with `name` where the file is damaged.
std::string sentencepiece_of_llama2c(std::string_view bytes, const std::string& name);

}  // namespace samba
