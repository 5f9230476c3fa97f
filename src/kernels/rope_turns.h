#pragma once

#include <cmath>

#include "core/dtype.h"

// Angles are kept in turns, as 128-bit fractions: position times frequency modulo 2^128 is the
// exact fraction of a turn that a multiplication leaves, for any position, at the price of three
// integer multiplications. Frequencies come from arithmetic in pairs of doubles.

namespace samba {
namespace {

__extension__ typedef unsigned __int128 Turn;
__extension__ typedef __int128 SignedTurn;

/// A number as the unevaluated sum of two doubles, good for some 100 bits.
struct Pair {
  double high;
  double low;
};

Pair operator*(Pair a, Pair b) {
  const double high = a.high * b.high;
  const double low = __builtin_fma(a.high, b.high, -high) + (a.high * b.low + a.low * b.high);
  const double sum = high + low;
  return {sum, low - (sum - high)};
}

Pair power(Pair x, Index n) {
  Pair y{1, 0};
  for (; n > 0; n /= 2, x = x * x)
    if (n % 2 != 0) y = y * x;
  return y;
}

/// base^(-1 / n): the library's power, and one step of Newton's method that doubles its digits.
Pair root(double base, Index n) {
  const auto count = static_cast<double>(n);
  const double near = std::pow(base, -1 / count);
  const Pair one = power({near, 0}, n) * Pair{base, 0};
  const double step = near * ((1 - one.high) - one.low) / count;
  const double sum = near + step;
  return {sum, step - (sum - near)};
}

/// Writes the turns per position of the pairs of columns of one head.
void fill_frequencies(double base, Index half, Turn* frequencies) {
  const Pair factor = root(base, half);
  Pair turns{0x1.45f306dc9c883p-3, -0x1.6b01ec5417056p-57};  // 1 / (2 pi)
  for (Index i = 0; i < half; ++i, turns = turns * factor)
    frequencies[i] = static_cast<Turn>(static_cast<SignedTurn>(turns.high * 0x1p128) +
                                       static_cast<SignedTurn>(turns.low * 0x1p128));
}

}  // namespace
}  // namespace samba
