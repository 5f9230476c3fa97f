#include "kernels/silu.h"

#include "kernels/cpu/math.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/tier.h"

namespace samba {

template <Tier>
void run_on(CpuStream& stream, const op::Silu& op) {
  visit_float(op.dtype(), [&]<class T>() {
    parallel_rows(stream, op.y.rows, op.y.cols, [&](Index first, Index last) {
      for (Index n = first; n < last; ++n) {
        T* y = op.y.row<T>(n);
        const T* x = op.x.row<T>(n);
#pragma omp simd
        for (Index i = 0; i < op.y.cols; ++i) put(y[i], silu(get(x[i])));
      }
    });
  });
}

template <Tier>
void run_on(CpuStream& stream, const op::SiluBackward& op) {
  visit_float(op.dtype(), [&]<class T>() {
    parallel_rows(stream, op.dy.rows, op.dy.cols, [&](Index first, Index last) {
      for (Index n = first; n < last; ++n) {
        T* dx = op.dx.row<T>(n);
        const T* dy = op.dy.row<T>(n);
        const T* x = op.x.row<T>(n);
#pragma omp simd
        for (Index i = 0; i < op.dy.cols; ++i) put(dx[i], get(dy[i]) * silu_slope(get(x[i])));
      }
    });
  });
}

template void run_on<kTier>(CpuStream&, const op::Silu&);
template void run_on<kTier>(CpuStream&, const op::SiluBackward&);

}  // namespace samba
