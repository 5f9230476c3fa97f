#pragma once

#include <chrono>
#include <string>

namespace samba {

/// Times the scope it lives in and adds the time to its name's row of the process's table.
/// Costs two clock readings; a scope inside another counts in both rows.
class Profile {
 public:
  /// name must outlive the process: a string literal.
  explicit Profile(const char* name) : name_(name), start_(std::chrono::steady_clock::now()) {}
  ~Profile();
  Profile(const Profile&) = delete;
  Profile& operator=(const Profile&) = delete;

  /// The table since the last call of clear(): name, calls, milliseconds, share; longest first.
  static std::string table();
  static void clear();

 private:
  const char* name_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace samba
