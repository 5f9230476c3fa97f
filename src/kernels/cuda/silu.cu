#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/vector.cuh"
#include "kernels/silu.h"

namespace samba {
namespace {

constexpr int kThreads = 256;

/// A thread takes n neighbouring columns of one row.
template <class T, int n>
__global__ void silu_forward(const op::Silu op) {
  let_next_begin();
  wait_for_previous();
  const auto [row, col] = place_of<n>(Index{blockIdx.x} * kThreads + threadIdx.x, op.y.cols);
  if (row >= op.y.rows) return;
  float x[n];
  load<n>(x, op.x.row<T>(row) + col);
#pragma unroll
  for (int k = 0; k < n; ++k) x[k] = silu<T>(x[k]);
  store<n>(op.y.row<T>(row) + col, x);
}

template <class T, int n>
__global__ void silu_backward(const op::SiluBackward op) {
  const auto [row, col] = place_of<n>(Index{blockIdx.x} * kThreads + threadIdx.x, op.dy.cols);
  if (row >= op.dy.rows) return;
  float x[n], dy[n];
  load<n>(x, op.x.row<T>(row) + col);
  load<n>(dy, op.dy.row<T>(row) + col);
#pragma unroll
  for (int k = 0; k < n; ++k) dy[k] *= silu_slope(x[k], sigmoid<T>(x[k]));
  store<n>(op.dx.row<T>(row) + col, dy);
}

unsigned blocks(ConstView v, int n) {
  return static_cast<unsigned>(ceil_div(v.rows * v.cols, Index{kThreads} * n));
}

}  // namespace

void run_on(CudaStream& stream, const op::Silu& op) {
  visit_float(op.dtype(), [&]<class T>() {
    constexpr int n = 16 / sizeof(T);
    if (aligned(n, op.y, op.x))
      launch_early(stream, silu_forward<T, n>, blocks(op.y, n), kThreads, 0, op);
    else
      launch_early(stream, silu_forward<T, 1>, blocks(op.y, 1), kThreads, 0, op);
  });
}

void run_on(CudaStream& stream, const op::SiluBackward& op) {
  visit_float(op.dtype(), [&]<class T>() {
    constexpr int n = 16 / sizeof(T);
    if (aligned(n, op.dx, op.dy, op.x))
      launch(stream, silu_backward<T, n>, blocks(op.dy, n), kThreads, 0, op);
    else
      launch(stream, silu_backward<T, 1>, blocks(op.dy, 1), kThreads, 0, op);
  });
}

}  // namespace samba
