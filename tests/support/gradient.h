#pragma once

#include <functional>

#include "support/compare.h"

namespace samba::test {

/// Checks an analytic gradient against central differences in float64: for a sample of the elements
/// of x, (f(x + h) - f(x - h)) / 2h with h = 1e-5 must agree with `gradient` to 1e-7 of the largest
/// entry. x is a float64 view that f reads; it is restored.
void expect_gradient(View x, const Host& gradient, const std::function<double()>& f,
                     int samples = 64);

/// sum of a * b over all elements: a scalar loss whose gradient by b is a.
double dot(const Host& a, const Host& b);

}  // namespace samba::test
