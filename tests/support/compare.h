#pragma once

#include <span>
#include <string>
#include <vector>

#include "core/matrix.h"

namespace samba::test {

/// A matrix of doubles in plain sight: what references compute on.
struct Host {
  Index rows = 0;
  Index cols = 0;
  std::vector<double> values;

  Host() = default;
  Host(Index r, Index c) : rows(r), cols(c), values(static_cast<std::size_t>(r * c)) {}
  double& operator()(Index r, Index c) { return values[static_cast<std::size_t>(r * cols + c)]; }
  double operator()(Index r, Index c) const {
    return values[static_cast<std::size_t>(r * cols + c)];
  }
};

/// Normal numbers of mean 0 and deviation `scale`, the same for the same seed, already rounded to
/// dtype: a test then measures the kernel, not the rounding of its inputs.
Host random(Index rows, Index cols, DType dtype, int seed, double scale = 1);

/// A copy of v in doubles.
Host host(ConstView v);

/// What the tolerance law needs to know beside the dtype.
struct Law {
  Index terms = 1;             ///< the length of the longest sum behind one element
  DType rounded = DType::f32;  ///< the coarsest type that an intermediate is rounded to
  Index roundings = 1;         ///< how many of them follow one another
  double rms = 0;              ///< of the values that cancel; 0: the rms of the expected matrix
  /// [rows, 1]: how far the exact results of inputs lie apart that differ by a rounding; may be
  /// left out. Where a result is that sensitive, no arithmetic of this type finds it more closely.
  Host spread = {};
};

/// The root of the mean of the squares, 0 of nothing.
double rms(std::span<const double> values);

/// Checks every element against the tolerance law:
///   |actual - expected| <= 4 (u(dtype) |expected| + u(sum) sqrt(terms) rms(expected))
/// u(sum) is f32's unit roundoff (f64's for f64), plus bf16's where an intermediate is rounded to
/// it (times the root of their number). Where a spread is given, a row may be off by 4 times that,
/// times the same root. Reports the worst element. A NaN fails.
void expect_close(const Host& actual, const Host& expected, DType dtype, Law law);
inline void expect_close(const Host& actual, const Host& expected, DType dtype, Index terms) {
  expect_close(actual, expected, dtype, Law{terms});
}

/// Checks that all elements are the same bits.
void expect_same(const Host& actual, const Host& expected);

}  // namespace samba::test
