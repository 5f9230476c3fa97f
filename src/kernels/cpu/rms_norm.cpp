#include "kernels/rms_norm.h"

#include <cmath>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/tier.h"

namespace samba {
namespace {

template <class T>
void scale_row(T* y, const T* x, const Exact<T>* w, Index width) {
#pragma omp simd
  for (Index i = 0; i < width; ++i) put(y[i], get(x[i]) * w[i]);
}

template <class T>
void norm_row(const op::RmsNorm& op, Index n) {
  using E = Exact<T>;
  const Index width = op.y.cols;
  const E* s = op.x.row<E>(n);
  if (!op.sum.empty()) {
    E* sum = op.sum.row<E>(n);
    if (!op.add.empty()) {
      const T* add = op.add.row<T>(n);
#pragma omp simd
      for (Index i = 0; i < width; ++i) sum[i] = s[i] + get(add[i]);
    } else if (sum != s) {
#pragma omp simd
      for (Index i = 0; i < width; ++i) sum[i] = s[i];
    }
    s = sum;
  }
  E squares = 0;
#pragma omp simd reduction(+ : squares)
  for (Index i = 0; i < width; ++i) squares += s[i] * s[i];
  const E scale = E{1} / std::sqrt(squares / static_cast<E>(width) + static_cast<E>(op.eps));
  if (!op.scale.empty()) *op.scale.row<E>(n) = scale;
  T* y = op.y.row<T>(n);
  const E* w = op.w.row<E>(0);
  if (!op.normal.empty()) {
    T* normal = op.normal.row<T>(n);
#pragma omp simd
    for (Index i = 0; i < width; ++i) put(normal[i], s[i] * scale);
    return scale_row(y, normal, w, width);
  }
#pragma omp simd
  for (Index i = 0; i < width; ++i) {
    T normal;
    put(normal, s[i] * scale);
    put(y[i], get(normal) * w[i]);
  }
}

/// Adds row n's share to dx and to dw, a row of partial sums.
template <class T>
void norm_row_backward(const op::RmsNormBackward& op, Index n, Exact<T>* dw) {
  using E = Exact<T>;
  const Index width = op.dy.cols;
  E* dx = op.dx.row<E>(n);
  const T* dy = op.dy.row<T>(n);
  const T* normal = op.normal.row<T>(n);
  const E* w = op.w.row<E>(0);
  const E scale = *op.scale.row<E>(n);
  E projection = 0;
#pragma omp simd reduction(+ : projection)
  for (Index i = 0; i < width; ++i) projection += get(dy[i]) * w[i] * get(normal[i]);
  const E along = projection / static_cast<E>(width);
#pragma omp simd
  for (Index i = 0; i < width; ++i) {
    const E d = get(dy[i]), x = get(normal[i]);
    dx[i] += scale * (d * w[i] - x * along);
    dw[i] += d * x;
  }
  if (op.rounded.empty()) return;
  T* rounded = op.rounded.row<T>(n);
#pragma omp simd
  for (Index i = 0; i < width; ++i) put(rounded[i], dx[i]);
}

template <class E>
void add_row(E* to, const E* from, Index width) {
#pragma omp simd
  for (Index i = 0; i < width; ++i) to[i] += from[i];
}

}  // namespace

template <Tier>
void run_on(CpuStream& stream, const op::RmsNorm& op) {
  visit_float(op.dtype(), [&]<class T>() {
    parallel_rows(stream, op.y.rows, op.y.cols, [&](Index first, Index last) {
      for (Index n = first; n < last; ++n) norm_row<T>(op, n);
    });
  });
}

template <Tier>
void run_on(CpuStream& stream, const op::ScaleColumns& op) {
  visit_float(op.dtype(), [&]<class T>() {
    parallel_rows(stream, op.y.rows, op.y.cols, [&](Index first, Index last) {
      for (Index n = first; n < last; ++n)
        scale_row(op.y.row<T>(n), op.x.row<T>(n), op.w.row<Exact<T>>(0), op.y.cols);
    });
  });
}

template <Tier>
void run_on(CpuStream& stream, const op::RmsNormBackward& op) {
  // dw is summed by blocks of rows whose borders do not depend on the threads, so neither do its
  // bits. A block costs one row of memory.
  constexpr Index kBlock = 64;
  const Index rows = op.dy.rows, width = op.dy.cols, blocks = (rows + kBlock - 1) / kBlock;
  if (blocks == 0) return;
  visit_float(op.dtype(), [&]<class T>() {
    using E = Exact<T>;
    const Matrix partial(stream, dtype_of<E>(), blocks, width);
    const View sums = partial;
    parallel_rows(stream, blocks, kBlock * width, [&](Index first, Index last) {
      for (Index b = first; b < last; ++b) {
        E* dw = sums.row<E>(b);
        for (Index i = 0; i < width; ++i) dw[i] = 0;
        const Index end = std::min(rows, (b + 1) * kBlock);
        for (Index n = b * kBlock; n < end; ++n) norm_row_backward<T>(op, n, dw);
      }
    });
    for (Index b = 1; b < blocks; ++b) add_row(sums.row<E>(0), sums.row<E>(b), width);
    add_row(op.dw.row<E>(0), sums.row<E>(0), width);
  });
}

template void run_on<kTier>(CpuStream&, const op::RmsNorm&);
template void run_on<kTier>(CpuStream&, const op::ScaleColumns&);
template void run_on<kTier>(CpuStream&, const op::RmsNormBackward&);

}  // namespace samba
