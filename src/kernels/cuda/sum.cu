#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/sum.h"

namespace samba {
namespace {

constexpr int kThreads = 1024;

__global__ void __launch_bounds__(kThreads) add_all(const op::Sum op) {
  __shared__ double scratch[kThreads / 32];
  double sum = 0;
#pragma unroll 8
  for (Index i = threadIdx.x; i < op.x.rows; i += kThreads) sum += *op.x.row<float>(i);
  sum = block_sum<kThreads>(sum, scratch);
  if (threadIdx.x == 0) *op.sum.row<double>(0) += sum;
}

}  // namespace

void run_on(CudaStream& stream, const op::Sum& op) {
  launch(stream, add_all, 1, kThreads, 0, op);
}

}  // namespace samba
