#include "kernels/mega.h"

#include "kernels/cpu/math.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/tier.h"

namespace samba {
namespace {

template <class T>
void query_key_row(const op::MegaQueryKey& op, Index n) {
  using E = Exact<T>;
  const Index width = op.z.cols;
  const E inverse = static_cast<E>(1 / op.scale);
  const T* z = op.z.row<T>(n);
  T* q = op.q.row<T>(n);
  T* k = op.k.row<T>(n);
  const E *gamma_q = op.gamma.row<E>(0), *gamma_k = op.gamma.row<E>(1);
  const E* beta = op.beta.row<E>(0);
  const E *bias_q = op.bias.row<E>(0), *bias_k = op.bias.row<E>(1);
#pragma omp simd
  for (Index i = 0; i < width; ++i) {
    const E s = silu(get(z[i]));
    put(q[i], s * gamma_q[i] + beta[i]);
    put(k[i], s * gamma_k[i]);
    put(q[width + i], bias_q[i] * inverse);
    put(k[width + i], bias_k[i]);
  }
}

/// Columns first .. last - 1 of all rows, one after the other.
template <class T>
void query_key_backward(const op::MegaQueryKeyBackward& op, Index first, Index last) {
  using E = Exact<T>;
  const Index width = op.z.cols;
  const E inverse = static_cast<E>(1 / op.scale);
  const E *gamma_q = op.gamma.row<E>(0), *gamma_k = op.gamma.row<E>(1);
  E *dgamma_q = op.dgamma.row<E>(0), *dgamma_k = op.dgamma.row<E>(1);
  E* dbeta = op.dbeta.row<E>(0);
  E *dbias_q = op.dbias.row<E>(0), *dbias_k = op.dbias.row<E>(1);
  for (Index n = 0; n < op.z.rows; ++n) {
    const T* z = op.z.row<T>(n);
    const T* dq = op.dq.row<T>(n);
    const T* dk = op.dk.row<T>(n);
    T* dz = op.dz.row<T>(n);
#pragma omp simd
    for (Index i = first; i < last; ++i) {
      const E x = get(z[i]), s = silu(x), d_q = get(dq[i]), d_k = get(dk[i]);
      put(dz[i], (d_q * gamma_q[i] + d_k * gamma_k[i]) * silu_slope(x));
      dgamma_q[i] += d_q * s;
      dgamma_k[i] += d_k * s;
      dbeta[i] += d_q;
      dbias_q[i] += get(dq[width + i]) * inverse;
      dbias_k[i] += get(dk[width + i]);
    }
  }
}

template <class T>
void gate_row(const op::MegaGate& op, Index n) {
  using E = Exact<T>;
  T* y = op.y.row<T>(n);
  const T *u = op.u.row<T>(n), *h = op.h.row<T>(n), *hx = op.hx.row<T>(n), *x = op.x.row<T>(n);
#pragma omp simd
  for (Index i = 0; i < op.y.cols; ++i) {
    const E sum = get(h[i]) + get(hx[i]);
    put(y[i], sigmoid(get(u[i])) * (silu(sum) - get(x[i])));
  }
}

template <class T>
void gate_row_backward(const op::MegaGateBackward& op, Index n) {
  using E = Exact<T>;
  T *du = op.du.row<T>(n), *dh = op.dh.row<T>(n);
  E* dx = op.dx.row<E>(n);
  const T *dy = op.dy.row<T>(n), *u = op.u.row<T>(n), *h = op.h.row<T>(n);
  const T *hx = op.hx.row<T>(n), *x = op.x.row<T>(n);
#pragma omp simd
  for (Index i = 0; i < op.dy.cols; ++i) {
    const E d = get(dy[i]), sum = get(h[i]) + get(hx[i]), at = get(u[i]);
    // sigmoid and its slope without the difference of 1 and a number near 1.
    const E e = fast_exp(at > 0 ? -at : at), larger = E{1} / (E{1} + e);
    const E gate = at > 0 ? larger : e * larger;
    put(du[i], d * (silu(sum) - get(x[i])) * (e * larger * larger));
    put(dh[i], d * gate * silu_slope(sum));
    dx[i] = -d * gate;
  }
}

}  // namespace

template <Tier>
void run_on(CpuStream& stream, const op::MegaQueryKey& op) {
  visit_float(op.dtype(), [&]<class T>() {
    parallel_rows(stream, op.z.rows, 2 * op.z.cols, [&](Index first, Index last) {
      for (Index n = first; n < last; ++n) query_key_row<T>(op, n);
    });
  });
}

template <Tier>
void run_on(CpuStream& stream, const op::MegaQueryKeyBackward& op) {
  constexpr Index kGrain = 32;  // columns: fewer would share lines of memory
  visit_float(op.dtype(), [&]<class T>() {
    parallel_ranges(stream, op.z.cols, kGrain,
                    [&](Index first, Index last) { query_key_backward<T>(op, first, last); });
  });
}

template <Tier>
void run_on(CpuStream& stream, const op::MegaGate& op) {
  visit_float(op.dtype(), [&]<class T>() {
    parallel_rows(stream, op.y.rows, op.y.cols, [&](Index first, Index last) {
      for (Index n = first; n < last; ++n) gate_row<T>(op, n);
    });
  });
}

template <Tier>
void run_on(CpuStream& stream, const op::MegaGateBackward& op) {
  visit_float(op.dtype(), [&]<class T>() {
    parallel_rows(stream, op.dy.rows, op.dy.cols, [&](Index first, Index last) {
      for (Index n = first; n < last; ++n) gate_row_backward<T>(op, n);
    });
  });
}

template void run_on<kTier>(CpuStream&, const op::MegaQueryKey&);
template void run_on<kTier>(CpuStream&, const op::MegaQueryKeyBackward&);
template void run_on<kTier>(CpuStream&, const op::MegaGate&);
template void run_on<kTier>(CpuStream&, const op::MegaGateBackward&);

}  // namespace samba
