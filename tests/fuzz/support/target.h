#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/error.h"

/// What libFuzzer calls with every input.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace samba::fuzz {

/// Runs what a file may make fail. An Error is an answer; anything else ends the target.
template <class Use>
void attempt(const Use& use) {
  try {
    use();
  } catch (const Error&) {
    return;
  }
}

inline std::string_view text_of(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

}  // namespace samba::fuzz
