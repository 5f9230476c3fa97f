#pragma once

#include <chrono>
#include <cstdint>
#include <functional>

#include "core/matrix.h"
#include "core/stream.h"

namespace samba::bench {

/// Numbers spread evenly over middle - reach .. middle + reach, the same at every call.
inline Matrix random_matrix(Stream& stream, DType dtype, Index rows, Index cols, float reach = 2,
                            float middle = 0) {
  Matrix m(stream, dtype, rows, cols);
  std::uint32_t state = 1;
  for (Index r = 0; r < rows; ++r)
    for (Index c = 0; c < cols; ++c) {
      state = state * 1664525u + 1013904223u;
      const float value = middle + reach * (static_cast<float>(state >> 8) * 0x1p-23f - 1);
      if (dtype == DType::f32)
        m.row<float>(r)[c] = value;
      else
        m.row<Bf16>(r)[c] = Bf16(value);
    }
  return m;
}

inline double seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace samba::bench
