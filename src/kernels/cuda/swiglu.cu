#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/vector.cuh"
#include "kernels/swiglu.h"

namespace samba {
namespace {

constexpr int kThreads = 256;

/// A thread takes n neighbouring columns of one row.
template <class T, int n>
__global__ void swiglu(const op::SwiGlu op) {
  let_next_begin();
  wait_for_previous();
  const auto [row, col] = place_of<n>(Index{blockIdx.x} * kThreads + threadIdx.x, op.y.cols);
  if (row >= op.y.rows) return;
  float gate[n], up[n];
  load<n>(gate, op.gate.row<T>(row) + col);
  load<n>(up, op.up.row<T>(row) + col);
#pragma unroll
  for (int k = 0; k < n; ++k) up[k] *= silu<T>(gate[k]);
  store<n>(op.y.row<T>(row) + col, up);
}

template <class T, int n, bool again>
__global__ void swiglu_backward(const op::SwiGluBackward op) {
  const auto [row, col] = place_of<n>(Index{blockIdx.x} * kThreads + threadIdx.x, op.dy.cols);
  if (row >= op.dy.rows) return;
  float gate[n], up[n], dy[n];
  load<n>(gate, op.gate.row<T>(row) + col);
  load<n>(up, op.up.row<T>(row) + col);
  load<n>(dy, op.dy.row<T>(row) + col);
#pragma unroll
  for (int k = 0; k < n; ++k) {
    const float s = sigmoid<T>(gate[k]), silu = gate[k] * s;
    const float dup = dy[k] * silu, y = silu * up[k];
    gate[k] = dy[k] * up[k] * silu_slope(gate[k], s);
    up[k] = dup;
    dy[k] = y;
  }
  store<n>(op.dgate.row<T>(row) + col, gate);
  store<n>(op.dup.row<T>(row) + col, up);
  if constexpr (again) store<n>(op.y.row<T>(row) + col, dy);
}

unsigned blocks(ConstView v, int n) {
  return static_cast<unsigned>(ceil_div(v.rows * v.cols, Index{kThreads} * n));
}

}  // namespace

void run_on(CudaStream& stream, const op::SwiGlu& op) {
  visit_float(op.dtype(), [&]<class T>() {
    constexpr int n = 16 / sizeof(T);
    if (aligned(n, op.y, op.gate, op.up))
      launch_early(stream, swiglu<T, n>, blocks(op.y, n), kThreads, 0, op);
    else
      launch_early(stream, swiglu<T, 1>, blocks(op.y, 1), kThreads, 0, op);
  });
}

void run_on(CudaStream& stream, const op::SwiGluBackward& op) {
  visit_float(op.dtype(), [&]<class T>() {
    constexpr int n = 16 / sizeof(T);
    const auto run = [&](auto kernel, int columns) {
      launch(stream, kernel, blocks(op.dy, columns), kThreads, 0, op);
    };
    const bool again = !op.y.empty();
    if (aligned(n, op.dgate, op.dup, op.y, op.dy, op.gate, op.up))
      again ? run(swiglu_backward<T, n, true>, n) : run(swiglu_backward<T, n, false>, n);
    else
      again ? run(swiglu_backward<T, 1, true>, 1) : run(swiglu_backward<T, 1, false>, 1);
  });
}

}  // namespace samba
