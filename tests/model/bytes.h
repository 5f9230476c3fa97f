#pragma once

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "core/error.h"
#include "model/tensors.h"

namespace samba::test {

/// The bytes of a value, as they lie in memory.
template <class T>
std::string bytes_of(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

/// A tensor's stored bytes in row-major order.
inline std::string bytes_of(const TensorFile& file, const std::string& name) {
  std::string bytes;
  file.each_piece(name, [&](std::span<const std::byte> piece) {
    bytes.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  });
  return bytes;
}

/// Removes the file first: some file systems flush one to the disk that is written over.
inline void write_bytes(const std::string& path, const std::string& bytes) {
  std::filesystem::remove(path);
  std::ofstream(path, std::ios::binary) << bytes;
}

inline std::string read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// The message of the Error that f throws; empty where it throws none.
inline std::string error_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

/// A view of the elements of a vector as [rows x cols].
template <class T>
View view_of(std::vector<T>& values, Index rows, Index cols) {
  return {reinterpret_cast<std::byte*>(values.data()), rows, cols, cols, dtype_of<T>()};
}

}  // namespace samba::test
