#include "support/gradient.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace samba::test {

void expect_gradient(View x, const Host& gradient, const std::function<double()>& f, int samples) {
  ASSERT_EQ(x.rows, gradient.rows);
  ASSERT_EQ(x.cols, gradient.cols);
  constexpr double kStep = 1e-5;
  constexpr double kBound = 1e-7;
  double largest = 1e-3;
  for (const double g : gradient.values) largest = std::max(largest, std::abs(g));
  const Index count = x.rows * x.cols;
  // A stride that shares no factor with most sizes visits rows and columns evenly.
  const Index stride = std::max<Index>(1, count / samples) | 1;
  for (Index i = 0; i < count; i += stride) {
    double& element = x.row<double>(i / x.cols)[i % x.cols];
    const double kept = element;
    element = kept + kStep;
    const double above = f();
    element = kept - kStep;
    const double below = f();
    element = kept;
    const double numeric = (above - below) / (2 * kStep);
    EXPECT_NEAR(gradient(i / x.cols, i % x.cols), numeric, kBound * largest)
        << "element (" << i / x.cols << ", " << i % x.cols << ")";
  }
}

double dot(const Host& a, const Host& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.values.size(); ++i) sum += a.values[i] * b.values[i];
  return sum;
}

}  // namespace samba::test
