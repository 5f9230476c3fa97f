#pragma once

#include <cmath>

#include "support/compare.h"

/// Every op once more, forward only, in doubles, transcribed from the paper and as slow as it likes.
namespace samba::test::reference {

inline double silu(double x) { return x / (1 + std::exp(-x)); }

/// Shazeer 2020, eq. 6.
inline Host swiglu(const Host& gate, const Host& up) {
  Host y(gate.rows, gate.cols);
  for (std::size_t i = 0; i < y.values.size(); ++i)
    y.values[i] = silu(gate.values[i]) * up.values[i];
  return y;
}

}  // namespace samba::test::reference
