#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

#include "core/error.h"

namespace samba::test {

/// The path of a file among the large data that lie beside the repository, not in it: in the folder
/// that the environment names as SAMBA_SHARED, else in ../shared. "" where there is none; a test
/// then skips itself.
inline std::string shared_file(const std::string& name) {
  const char* folder = std::getenv("SAMBA_SHARED");
  const std::filesystem::path path =
      (folder != nullptr ? std::filesystem::path(folder)
                         : std::filesystem::path(SAMBA_SOURCE_DIR) / ".." / "shared") /
      name;
  return std::filesystem::exists(path) ? path.string() : "";
}

/// The path of a file in tests/data.
inline std::string test_file(const std::string& name) {
  return std::string(SAMBA_SOURCE_DIR) + "/tests/data/" + name;
}

/// Skips a test whose shared file is not there, and says which.
#define SAMBA_SKIP_WITHOUT(path, name) \
  if ((path).empty()) GTEST_SKIP() << "no " << (name) << " (SAMBA_SHARED names its folder)"

/// The message of the Error that `call` throws; "" when it throws none.
template <class Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace samba::test
