#pragma once

#include <cmath>

#include "support/compare.h"

/// Every op once more, forward only, in doubles, transcribed from the paper and as slow as it
/// likes.
namespace samba::test::reference {

inline double silu(double x) {
  return x / (1 + std::exp(-x));
}

/// Shazeer 2020, eq. 6.
inline Host swiglu(const Host& gate, const Host& up) {
  Host y(gate.rows, gate.cols);
  for (std::size_t i = 0; i < y.values.size(); ++i)
    y.values[i] = silu(gate.values[i]) * up.values[i];
  return y;
}

/// Zhang & Sennrich 2019, eq. 4.
inline Host rms_norm(const Host& x, const Host& w, double eps) {
  Host y(x.rows, x.cols);
  for (Index n = 0; n < x.rows; ++n) {
    double squares = 0;
    for (Index i = 0; i < x.cols; ++i) squares += x(n, i) * x(n, i);
    const double rms = std::sqrt(squares / static_cast<double>(x.cols) + eps);
    for (Index i = 0; i < x.cols; ++i) y(n, i) = x(n, i) / rms * w(0, i);
  }
  return y;
}

/// The negative log-likelihood of each row's target, in nats; 0 for target -1.
inline Host cross_entropy(const Host& logits, const std::vector<int>& targets) {
  Host loss(logits.rows, 1);
  for (Index n = 0; n < logits.rows; ++n) {
    const int target = targets[static_cast<std::size_t>(n)];
    if (target < 0) continue;
    double sum = 0;
    for (Index v = 0; v < logits.cols; ++v) sum += std::exp(logits(n, v) - logits(n, target));
    loss(n, 0) = std::log(sum);
  }
  return loss;
}

/// x wᵀ.
inline Host linear(const Host& x, const Host& w) {
  Host y(x.rows, w.rows);
  for (Index n = 0; n < x.rows; ++n)
    for (Index o = 0; o < w.rows; ++o)
      for (Index i = 0; i < x.cols; ++i) y(n, o) += x(n, i) * w(o, i);
  return y;
}

inline Host transposed(const Host& x) {
  Host y(x.cols, x.rows);
  for (Index r = 0; r < x.rows; ++r)
    for (Index c = 0; c < x.cols; ++c) y(c, r) = x(r, c);
  return y;
}

}  // namespace samba::test::reference
