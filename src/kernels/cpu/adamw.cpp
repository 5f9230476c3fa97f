#include "kernels/adamw.h"

#include <cmath>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/tier.h"

namespace samba {
namespace {

/// What gradients are scaled by, or no number where a sum is none.
double scale_of(const op::AdamW& op) {
  double scale = 1;
  for (Index i = 0; i < op.sums.cols; ++i) {
    const double sum = op.sums.row<double>(0)[i];
    if (!std::isfinite(sum)) return sum - sum;
    const double norm = std::sqrt(sum);
    if (i == 0 && op.clip > 0 && norm > op.clip) scale = op.clip / norm;
  }
  return scale;
}

/// Elements [first, last) of the step.
template <class T>
void adamw_range(const op::AdamW& op, double gradient_scale, Index first, Index last) {
  T* w = op.w.row<T>(0);
  T* m = op.m.row<T>(0);
  T* v = op.v.row<T>(0);
  const T* gradient = op.gradient.row<T>(0);
  const auto steps = static_cast<double>(op.step);
  const T beta1 = static_cast<T>(op.beta1), rest1 = static_cast<T>(1 - op.beta1);
  const T beta2 = static_cast<T>(op.beta2), rest2 = static_cast<T>(1 - op.beta2);
  const T rate = static_cast<T>(op.lr / (1 - std::pow(op.beta1, steps)));
  const T correction2 = static_cast<T>(1 / (1 - std::pow(op.beta2, steps)));
  const T decay = static_cast<T>(op.lr * op.weight_decay);
  const T scale = static_cast<T>(gradient_scale), eps = static_cast<T>(op.eps);
#pragma omp simd
  for (Index i = first; i < last; ++i) {
    const T g = scale * gradient[i];
    m[i] = beta1 * m[i] + rest1 * g;
    v[i] = beta2 * v[i] + rest2 * g * g;
    // w less a sum, not w times (1 - decay): that factor's rounding error is as large as a
    // thousandth of the decay itself, and the same at every step.
    w[i] -= decay * w[i] + rate * m[i] / (std::sqrt(v[i] * correction2) + eps);
  }
  if (op.rounded.empty()) return;
  Bf16* rounded = op.rounded.row<Bf16>(0);
#pragma omp simd
  for (Index i = first; i < last; ++i) put(rounded[i], static_cast<float>(w[i]));
}

template <class T>
double squares_of(const T* x, Index count) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (Index i = 0; i < count; ++i) {
    const double value = get(x[i]);
    sum += value * value;
  }
  return sum;
}

}  // namespace

template <Tier>
void run_on(CpuStream& stream, const op::AdamW& op) {
  constexpr Index kBlock = 4096;  // rounding reads w back from the first-level cache
  const double scale = scale_of(op);
  if (std::isnan(scale)) return;
  visit_float(op.dtype(), [&]<class T>() {
    if constexpr (!std::is_same_v<T, Bf16>) {
      const Index count = op.w.cols, blocks = (count + kBlock - 1) / kBlock;
      parallel_rows(stream, blocks, kBlock, [&](Index first, Index last) {
        for (Index b = first; b < last; ++b)
          adamw_range<T>(op, scale, b * kBlock, std::min(count, (b + 1) * kBlock));
      });
    }
  });
}

template <Tier>
void run_on(CpuStream& stream, const op::SumOfSquares& op) {
  // Borders of blocks do not depend on the threads, so neither do the bits of the sum.
  constexpr Index kBlock = 65536;
  const Index across = (op.x.cols + kBlock - 1) / kBlock, blocks = op.x.rows * across;
  const Matrix partial(stream, DType::f64, 1, blocks);
  double* sums = partial.view().row<double>(0);
  visit_float(op.dtype(), [&]<class T>() {
    parallel_rows(stream, blocks, std::min(op.x.cols, kBlock), [&](Index first, Index last) {
      for (Index b = first; b < last; ++b) {
        const Index begin = b % across * kBlock, count = std::min(op.x.cols - begin, kBlock);
        sums[b] = squares_of(op.x.row<T>(b / across) + begin, count);
      }
    });
  });
  double sum = 0;
  for (Index b = 0; b < blocks; ++b) sum += sums[b];
  *op.sum.row<double>(0) += sum;
}

template void run_on<kTier>(CpuStream&, const op::AdamW&);
template void run_on<kTier>(CpuStream&, const op::SumOfSquares&);

}  // namespace samba
