#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/batch.h"
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

/// Causal attention of one sequence, rows from position 0 on: scores of queries x keys, softmax
/// over the last `window` keys, or the keys since the last multiple of `window` where `chunked`,
/// weighted values. Ainslie et al. 2023 (grouped queries); Beltagy et al. 2020, section 3.1. Also
/// writes log sum exp of the scaled scores where lse is not null.
inline Host attention(const Host& q, const Host& k, const Host& v, Index heads, Index kv_heads,
                      Index window, double scale, Host* lse = nullptr, bool chunked = false) {
  const Index width = q.cols / heads, values = v.cols / kv_heads;
  Host y(q.rows, heads * values);
  if (lse != nullptr) *lse = Host(q.rows, heads);
  for (Index i = 0; i < q.rows; ++i)
    for (Index h = 0; h < heads; ++h) {
      const Index g = h / (heads / kv_heads);
      const Index first = chunked ? i / window * window : std::max<Index>(0, i - window + 1);
      std::vector<double> scores;
      for (Index j = first; j <= i; ++j) {
        double dot = 0;
        for (Index d = 0; d < width; ++d) dot += q(i, h * width + d) * k(j, g * width + d);
        scores.push_back(scale * dot);
      }
      const double largest = *std::max_element(scores.begin(), scores.end());
      double sum = 0;
      for (double& s : scores) sum += s = std::exp(s - largest);
      if (lse != nullptr) (*lse)(i, h) = largest + std::log(sum);
      for (Index d = 0; d < values; ++d)
        for (Index j = first; j <= i; ++j)
          y(i, h * values + d) +=
              scores[static_cast<std::size_t>(j - first)] / sum * v(j, g * values + d);
    }
  return y;
}

/// Su et al. 2021, section 3.4.2, half-split pairing; row r stands at position + r.
inline Host rope(const Host& x, Index heads, double base, Index position) {
  Host y(x.rows, x.cols);
  const Index width = x.cols / heads, half = width / 2;
  for (Index r = 0; r < x.rows; ++r)
    for (Index h = 0; h < heads; ++h)
      for (Index i = 0; i < half; ++i) {
        const long double angle =
            static_cast<long double>(position + r) *
            std::pow(static_cast<long double>(base),
                     -2 * static_cast<long double>(i) / static_cast<long double>(width));
        const auto c = static_cast<double>(std::cos(angle)),
                   s = static_cast<double>(std::sin(angle));
        const Index a = h * width + i, b = a + half;
        y(r, a) = x(r, a) * c - x(r, b) * s;
        y(r, b) = x(r, a) * s + x(r, b) * c;
      }
  return y;
}

/// The recurrence of Yang et al. 2023, eq. 3 (with a gate) or of Sun et al. 2023, eq. 5 and 8, from
/// position 0 of each span. `state`, where given, becomes the last span's S, [1, H K V].
inline Host linear_attention(const Host& q, const Host& k, const Host& v, const Host& gate,
                             Index heads, double scale, const std::vector<Span>& spans,
                             Host* state = nullptr) {
  const Index keys = q.cols / heads, values = v.cols / heads;
  Host y(v.rows, v.cols);
  for (const Span& span : spans) {
    Host s(1, heads * keys * values);
    for (Index t = span.first; t < span.first + span.length; ++t)
      for (Index h = 0; h < heads; ++h)
        for (Index i = 0; i < keys; ++i) {
          const Index channel = h * keys + i;
          const double decay = gate.rows > 0
                                   ? std::pow(1 / (1 + std::exp(-gate(t, channel))), 1.0 / 16)
                                   : 1 - std::pow(2.0, -5 - static_cast<double>(h));
          for (Index j = 0; j < values; ++j) {
            double& cell = s(0, channel * values + j);
            cell = decay * cell + k(t, channel) * v(t, h * values + j);
            y(t, h * values + j) += scale * q(t, channel) * cell;
          }
        }
    if (state != nullptr) *state = s;
  }
  return y;
}

/// RMSNorm of each head, times silu(gate).
inline Host gated_norm(const Host& x, const Host& gate, const Host& w, double eps) {
  Host y(x.rows, x.cols);
  for (Index n = 0; n < x.rows; ++n)
    for (Index c = 0; c < x.cols; c += w.cols) {
      double squares = 0;
      for (Index i = 0; i < w.cols; ++i) squares += x(n, c + i) * x(n, c + i);
      const double rms = std::sqrt(squares / static_cast<double>(w.cols) + eps);
      for (Index i = 0; i < w.cols; ++i)
        y(n, c + i) = x(n, c + i) / rms * w(0, i) * silu(gate(n, c + i));
    }
  return y;
}

/// Softplus with PyTorch's cut: x itself above 20.
inline double softplus(double x) {
  return x > 20 ? x : std::log1p(std::exp(x));
}

/// Gu & Dao 2023, algorithm 2, from position 0 of each span; z may be left empty. `state`, where
/// given, becomes the last span's h, [1, S * E], state by state.
inline Host selective_scan(const Host& u, const Host& dt, const Host& b, const Host& c,
                           const Host& z, const Host& dt_bias, const Host& a_log, const Host& d,
                           const std::vector<Span>& spans, Host* state = nullptr) {
  const Index channels = u.cols, states = a_log.cols;
  Host y(u.rows, channels);
  for (const Span& span : spans) {
    Host h(1, states * channels);
    for (Index t = span.first; t < span.first + span.length; ++t) {
      for (Index e = 0; e < channels; ++e) {
        const double delta = softplus(dt(t, e) + dt_bias(0, e));
        double sum = 0;
        for (Index n = 0; n < states; ++n) {
          double& state_of_n = h(0, n * channels + e);
          state_of_n =
              std::exp(delta * -std::exp(a_log(e, n))) * state_of_n + delta * u(t, e) * b(t, n);
          sum += state_of_n * c(t, n);
        }
        y(t, e) = (sum + d(0, e) * u(t, e)) * (z.rows > 0 ? silu(z(t, e)) : 1);
      }
    }
    if (state != nullptr) *state = h;
  }
  return y;
}

/// Gu & Dao 2023, figure 3: causal depthwise convolution and SiLU, from position 0 of each span.
inline Host causal_conv1d(const Host& x, const Host& w, const Host& bias,
                          const std::vector<Span>& spans) {
  const Index taps = w.cols;
  Host y(x.rows, x.cols);
  for (const Span& span : spans)
    for (Index t = 0; t < span.length; ++t)
      for (Index e = 0; e < x.cols; ++e) {
        double sum = bias.rows > 0 ? bias(0, e) : 0;
        for (Index j = 0; j < taps; ++j) {
          const Index from = t - (taps - 1) + j;
          if (from >= 0) sum += w(e, j) * x(span.first + from, e);
        }
        y(span.first + t, e) = silu(sum);
      }
  return y;
}

}  // namespace samba::test::reference
