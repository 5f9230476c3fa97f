#include "kernels/attention_merge.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vector.cuh"

namespace samba {
namespace {

constexpr int kThreads = 256;

/// A thread takes n neighbouring columns of one head.
template <class T, int n>
__global__ void merge(const op::AttentionMerge op) {
  const Index i = (Index{blockIdx.x} * kThreads + threadIdx.x) * n;
  const Index row = i / op.y.cols, col = i % op.y.cols;
  if (row >= op.y.rows) return;
  const Index head = col / (op.y.cols / op.lse.cols);
  const float difference = op.lse.row<float>(row)[head] - op.other_lse.row<float>(row)[head];
  const float share = 1 / (1 + expf(difference));
  float y[n], other[n];
  load<n>(y, op.y.row<T>(row) + col);
  load<n>(other, op.other.row<T>(row) + col);
#pragma unroll
  for (int k = 0; k < n; ++k) y[k] += share * (other[k] - y[k]);
  store<n>(op.y.row<T>(row) + col, y);
}

template <class T, int n>
void launch_merge(CudaStream& stream, const op::AttentionMerge& op) {
  const Index blocks = ceil_div(op.y.rows * op.y.cols, Index{kThreads} * n);
  launch(stream, merge<T, n>, static_cast<unsigned>(blocks), kThreads, 0, op);
}

}  // namespace

void run_on(CudaStream& stream, const op::AttentionMerge& op) {
  visit_float(op.dtype(), [&]<class T>() {
    constexpr int n = 16 / sizeof(T);
    if (aligned(n, op.y, op.other) && op.y.cols / op.lse.cols % n == 0)
      launch_merge<T, n>(stream, op);
    else
      launch_merge<T, 1>(stream, op);
  });
}

}  // namespace samba
