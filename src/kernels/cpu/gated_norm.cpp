#include "kernels/gated_norm.h"

#include <cmath>

#include "kernels/cpu/math.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/tier.h"

namespace samba {
namespace {

template <class T>
Exact<T> inverse_rms(const T* x, Index width, double eps) {
  using E = Exact<T>;
  E squares = 0;
#pragma omp simd reduction(+ : squares)
  for (Index i = 0; i < width; ++i) squares += get(x[i]) * get(x[i]);
  return E{1} / std::sqrt(squares / static_cast<E>(width) + static_cast<E>(eps));
}

/// Row n; dw, a row of partial sums, is added to.
template <class T>
void gated_row_backward(const op::GatedNormBackward& op, Index n, Exact<T>* dw) {
  using E = Exact<T>;
  const Index width = op.w.cols;
  const E* w = op.w.row<E>(0);
  for (Index c = 0; c < op.dy.cols; c += width) {
    const T* dy = op.dy.row<T>(n) + c;
    const T* x = op.x.row<T>(n) + c;
    const T* gate = op.gate.row<T>(n) + c;
    T* dx = op.dx.row<T>(n) + c;
    T* dgate = op.dgate.row<T>(n) + c;
    const E scale = inverse_rms(x, width, op.eps);
    E projection = 0;
#pragma omp simd reduction(+ : projection)
    for (Index i = 0; i < width; ++i)
      projection += get(dy[i]) * w[i] * silu(get(gate[i])) * get(x[i]);
    const E along = projection * scale * scale / static_cast<E>(width);
#pragma omp simd
    for (Index i = 0; i < width; ++i) {
      const E d = get(dy[i]), g = get(gate[i]), value = get(x[i]);
      const E opened = d * silu(g);
      dw[i] += opened * value * scale;
      put(dgate[i], d * w[i] * value * scale * silu_slope(g));
      put(dx[i], scale * (opened * w[i] - value * along));
    }
  }
}

}  // namespace

template <Tier>
void run_on(CpuStream& stream, const op::GatedNorm& op) {
  visit_float(op.dtype(), [&]<class T>() {
    using E = Exact<T>;
    const Index width = op.w.cols;
    parallel_rows(stream, op.y.rows, op.y.cols, [&](Index first, Index last) {
      const E* w = op.w.row<E>(0);
      for (Index n = first; n < last; ++n)
        for (Index c = 0; c < op.y.cols; c += width) {
          T* y = op.y.row<T>(n) + c;
          const T* x = op.x.row<T>(n) + c;
          const T* gate = op.gate.row<T>(n) + c;
          const E scale = inverse_rms(x, width, op.eps);
#pragma omp simd
          for (Index i = 0; i < width; ++i)
            put(y[i], get(x[i]) * scale * w[i] * silu(get(gate[i])));
        }
    });
  });
}

template <Tier>
void run_on(CpuStream& stream, const op::GatedNormBackward& op) {
  // dw is summed by blocks of rows whose borders do not depend on the threads, so neither do its
  // bits.
  constexpr Index kBlock = 64;
  const Index rows = op.dy.rows, width = op.w.cols, blocks = (rows + kBlock - 1) / kBlock;
  visit_float(op.dtype(), [&]<class T>() {
    using E = Exact<T>;
    const Matrix partial(stream, dtype_of<E>(), blocks, width);
    const View sums = partial;
    parallel_rows(stream, blocks, kBlock * op.dy.cols, [&](Index first, Index last) {
      for (Index b = first; b < last; ++b) {
        E* dw = sums.row<E>(b);
        for (Index i = 0; i < width; ++i) dw[i] = 0;
        const Index end = std::min(rows, (b + 1) * kBlock);
        for (Index n = b * kBlock; n < end; ++n) gated_row_backward<T>(op, n, dw);
      }
    });
    E* dw = op.dw.row<E>(0);
    for (Index b = 0; b < blocks; ++b)
      for (Index i = 0; i < width; ++i) dw[i] += sums.row<E>(b)[i];
  });
}

template void run_on<kTier>(CpuStream&, const op::GatedNorm&);
template void run_on<kTier>(CpuStream&, const op::GatedNormBackward&);

}  // namespace samba
