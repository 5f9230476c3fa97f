#include "core/rng.h"

#include <cmath>

// The build keeps the compiler from fusing multiplications and additions in this file, and nothing
// but + - * / and sqrt is used, which IEEE 754 defines to the last bit: so the numbers are the same
// on any machine. A library's log would not be.

namespace samba {
namespace {

/// ln s for a normal s > 0.
double natural_log(double s) {
  int exponent = 0;
  double m = std::frexp(s, &exponent);
  if (m < 0.70710678118654752) {
    m *= 2;
    --exponent;
  }
  // ln m = 2 artanh(f). With m in [sqrt(1/2), sqrt(2)), f^2 < 0.03: the 11th term is below 2^-53.
  const double f = (m - 1) / (m + 1), square = f * f;
  double series = 0;
  for (int k = 10; k >= 0; --k) series = series * square + 1.0 / (2 * k + 1);
  return 2 * f * series + exponent * 0.69314718055994531;
}

/// In [-1, 1), of the 64 bits of two words.
double symmetric(std::uint32_t low, std::uint32_t high) {
  const std::uint64_t bits = (std::uint64_t{high} << 32 | low) >> 11;
  return static_cast<double>(bits) * 0x1p-52 - 1;
}

}  // namespace

double Rng::normal(std::uint64_t index) const {
  for (std::uint32_t attempt = 0;; ++attempt) {
    const auto w = words(index, attempt);
    const double u = symmetric(w[0], w[1]), v = symmetric(w[2], w[3]);
    const double s = u * u + v * v;
    // Outside of the unit circle, or its very centre: a fifth of all attempts.
    if (s < 1 && s > 0) return u * std::sqrt(-2 * natural_log(s) / s);
  }
}

}  // namespace samba
