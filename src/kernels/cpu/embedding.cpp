#include "kernels/embedding.h"

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/tier.h"

namespace samba {

template <Tier>
void run_on(CpuStream& stream, const op::Embedding& op) {
  op.check_tokens();
  visit_float(op.dtype(), [&]<class T>() {
    parallel_rows(stream, op.y.rows, op.y.cols, [&](Index first, Index last) {
      for (Index n = first; n < last; ++n) {
        Exact<T>* y = op.y.row<Exact<T>>(n);
        const T* w = op.w.row<T>(*op.tokens.row<std::int32_t>(n));
#pragma omp simd
        for (Index i = 0; i < op.y.cols; ++i) y[i] = get(w[i]);
      }
    });
  });
}

template <Tier>
void run_on(CpuStream& stream, const op::EmbeddingBackward& op) {
  op.check_tokens();
  // Tokens repeat, so threads share the columns and each walks all tokens in their order. A strip
  // is a cache line or two: no line has two writers.
  constexpr Index kStrip = 16;
  const Index rows = op.dy.rows, width = op.dy.cols;
  visit_float(op.dtype(), [&]<class T>() {
    using E = Exact<T>;
    const Index strips = (width + kStrip - 1) / kStrip;
    parallel_rows(stream, strips, rows * kStrip, [&](Index first, Index last) {
      const Index begin = first * kStrip, count = std::min(width, last * kStrip) - begin;
      for (Index n = 0; n < rows; ++n) {
        E* dw = op.dw.row<E>(*op.tokens.row<std::int32_t>(n)) + begin;
        const E* dy = op.dy.row<E>(n) + begin;
#pragma omp simd
        for (Index i = 0; i < count; ++i) dw[i] += dy[i];
      }
    });
  });
}

template void run_on<kTier>(CpuStream&, const op::Embedding&);
template void run_on<kTier>(CpuStream&, const op::EmbeddingBackward&);

}  // namespace samba
