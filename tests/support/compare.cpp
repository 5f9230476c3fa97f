#include "support/compare.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>

namespace samba::test {

Host random(Index rows, Index cols, DType dtype, int seed, double scale) {
  std::mt19937_64 generator(static_cast<std::uint64_t>(seed));
  std::normal_distribution<double> normal(0, scale);
  Host x(rows, cols);
  for (double& value : x.values) {
    value = normal(generator);
    if (dtype == DType::f32) value = static_cast<float>(value);
    if (dtype == DType::bf16) value = static_cast<float>(Bf16(static_cast<float>(value)));
  }
  return x;
}

Host host(ConstView v) {
  Host x(v.rows, v.cols);
  if (v.rows * v.cols > 0)
    copy(View{reinterpret_cast<std::byte*>(x.values.data()), v.rows, v.cols, v.cols, DType::f64},
         v);
  return x;
}

double rms(std::span<const double> values) {
  double squares = 0;
  for (const double v : values) squares += v * v;
  return std::sqrt(squares / std::max<double>(1, static_cast<double>(values.size())));
}

void expect_close(const Host& actual, const Host& expected, DType dtype, Law law) {
  ASSERT_EQ(actual.rows, expected.rows);
  ASSERT_EQ(actual.cols, expected.cols);
  const double scale = law.rms > 0 ? law.rms : rms(expected.values);
  double u_sum = unit_roundoff(exact_of(dtype));
  const double rounding =
      law.rounded == DType::bf16
          ? unit_roundoff(DType::bf16) * std::sqrt(static_cast<double>(law.roundings))
          : 0;
  u_sum = u_sum * std::sqrt(static_cast<double>(law.terms)) + rounding;
  double worst = -1;
  Index worst_at = 0;
  for (std::size_t i = 0; i < expected.values.size(); ++i) {
    const double e = expected.values[i];
    const double spread =
        law.spread.rows > 0 ? law.spread(static_cast<Index>(i) / expected.cols, 0) : 0;
    const double bound = 4 * std::max(unit_roundoff(dtype) * std::abs(e) + u_sum * scale,
                                      spread * std::sqrt(static_cast<double>(law.roundings)));
    const double error = std::abs(actual.values[i] - e);
    const double ratio = error == 0 ? 0 : error / bound;
    if (std::isnan(ratio) || ratio > worst) {
      worst = std::isnan(ratio) ? INFINITY : ratio;
      worst_at = static_cast<Index>(i);
    }
  }
  EXPECT_LE(worst, 1) << name_of(dtype) << " element ("
                      << worst_at / std::max<Index>(1, actual.cols) << ", "
                      << worst_at % std::max<Index>(1, actual.cols) << "): found "
                      << actual.values[static_cast<std::size_t>(worst_at)] << ", expected "
                      << expected.values[static_cast<std::size_t>(worst_at)] << ", rms " << scale;
}

void expect_same(const Host& actual, const Host& expected) {
  ASSERT_EQ(actual.rows, expected.rows);
  ASSERT_EQ(actual.cols, expected.cols);
  for (std::size_t i = 0; i < expected.values.size(); ++i)
    ASSERT_EQ(std::bit_cast<std::uint64_t>(actual.values[i]),
              std::bit_cast<std::uint64_t>(expected.values[i]))
        << "element " << i << ": found " << actual.values[i] << ", expected " << expected.values[i];
}

}  // namespace samba::test
