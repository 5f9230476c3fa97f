#include "kernels/swiglu.h"

#include "kernels/cpu/math.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/tier.h"

namespace samba {

template <Tier>
void run_on(CpuStream& stream, const op::SwiGlu& op) {
  visit_float(op.dtype(), [&]<class T>() {
    parallel_rows(stream, op.y.rows, op.y.cols, [&](Index first, Index last) {
      for (Index n = first; n < last; ++n) {
        T* y = op.y.row<T>(n);
        const T* gate = op.gate.row<T>(n);
        const T* up = op.up.row<T>(n);
#pragma omp simd
        for (Index i = 0; i < op.y.cols; ++i) put(y[i], silu(get(gate[i])) * get(up[i]));
      }
    });
  });
}

template <Tier>
void run_on(CpuStream& stream, const op::SwiGluBackward& op) {
  visit_float(op.dtype(), [&]<class T>() {
    parallel_rows(stream, op.dy.rows, op.dy.cols, [&](Index first, Index last) {
      for (Index n = first; n < last; ++n) {
        T* dgate = op.dgate.row<T>(n);
        T* dup = op.dup.row<T>(n);
        T* y = op.y.empty() ? dup : op.y.row<T>(n);  // where nobody wants it, dup comes over it
        const T* dy = op.dy.row<T>(n);
        const T* gate = op.gate.row<T>(n);
        const T* up = op.up.row<T>(n);
#pragma omp simd
        for (Index i = 0; i < op.dy.cols; ++i) {
          const Exact<T> g = get(gate[i]), u = get(up[i]), d = get(dy[i]);
          put(y[i], silu(g) * u);
          put(dup[i], d * silu(g));
          put(dgate[i], d * u * silu_slope(g));
        }
      }
    });
  });
}

template void run_on<kTier>(CpuStream&, const op::SwiGlu&);
template void run_on<kTier>(CpuStream&, const op::SwiGluBackward&);

}  // namespace samba
