#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vector.cuh"
#include "kernels/elementwise.h"

namespace samba {
namespace {

constexpr int kThreads = 256;

/// A thread takes n neighbouring columns `runs` times: all its loads are on their way before the
/// first is waited for.
template <class To, class From, int n, int runs, bool add>
__global__ void convert(const op::Convert op) {
  let_next_begin();
  wait_for_previous();
  const Index first = Index{blockIdx.x} * (kThreads * runs) + threadIdx.x;
  float from[runs][n], to[runs][n];
#pragma unroll
  for (int r = 0; r < runs; ++r) {
    const auto [row, col] = place_of<n>(first + r * kThreads, op.to.cols);
    if (row >= op.to.rows) break;
    load<n>(from[r], op.from.row<From>(row) + col);
    if constexpr (add) load<n>(to[r], op.to.row<To>(row) + col);
  }
#pragma unroll
  for (int r = 0; r < runs; ++r) {
    const auto [row, col] = place_of<n>(first + r * kThreads, op.to.cols);
    if (row >= op.to.rows) break;
    if constexpr (add)
#pragma unroll
      for (int k = 0; k < n; ++k) from[r][k] += to[r][k];
    store<n>(op.to.row<To>(row) + col, from[r]);
  }
}

template <class To, class From, int n, int runs>
void launch_convert(CudaStream& stream, const op::Convert& op) {
  const auto blocks =
      static_cast<unsigned>(ceil_div(op.to.rows * op.to.cols, Index{kThreads} * n * runs));
  if (op.add)
    launch_early(stream, convert<To, From, n, runs, true>, blocks, kThreads, 0, op);
  else
    launch_early(stream, convert<To, From, n, runs, false>, blocks, kThreads, 0, op);
}

template <class V>
V flattened(V v) {
  return {v.data, 1, v.rows * v.cols, v.rows * v.cols, v.dtype};
}

}  // namespace

void run_on(CudaStream& stream, const op::Convert& op) {
  op::Convert flat = op;
  if (op.to.rows == 1 || (op.to.stride == op.to.cols && op.from.stride == op.from.cols)) {
    flat.to = flattened(op.to);
    flat.from = flattened(op.from);
  }
  visit_float(op.to.dtype, [&]<class To>() {
    visit_float(op.from.dtype, [&]<class From>() {
      // Neighbouring threads then access 16 bytes of the wider type, and half as many of the other.
      constexpr int n = 16 / (sizeof(To) > sizeof(From) ? sizeof(To) : sizeof(From));
      if (aligned(n, flat.to, flat.from))
        launch_convert<To, From, n, 4>(stream, flat);
      else
        launch_convert<To, From, 1, 4>(stream, flat);
    });
  });
}

}  // namespace samba
