#include "kernels/attention_merge.h"

#include "kernels/cpu/math.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/tier.h"

namespace samba {

template <Tier>
void run_on(CpuStream& stream, const op::AttentionMerge& op) {
  visit_float(op.dtype(), [&]<class T>() {
    using E = Exact<T>;
    const Index width = op.y.cols / op.lse.cols;
    parallel_rows(stream, op.y.rows, op.y.cols, [&](Index first, Index last) {
      for (Index n = first; n < last; ++n)
        for (Index h = 0; h < op.lse.cols; ++h) {
          const E share = sigmoid(op.other_lse.row<E>(n)[h] - op.lse.row<E>(n)[h]);
          T* y = op.y.row<T>(n) + h * width;
          const T* other = op.other.row<T>(n) + h * width;
#pragma omp simd
          for (Index i = 0; i < width; ++i)
            put(y[i], get(y[i]) + share * (get(other[i]) - get(y[i])));
        }
    });
  });
}

template void run_on<kTier>(CpuStream&, const op::AttentionMerge&);

}  // namespace samba
