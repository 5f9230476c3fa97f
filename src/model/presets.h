#pragma once

#include <span>

namespace samba {

/// A file of configs/, compiled into the program.
struct Preset {
  const char* name;  ///< the file's name without .json
  const char* json;
};

std::span<const Preset> presets();

}  // namespace samba
