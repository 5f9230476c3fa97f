#include <cmath>

#include "kernels/adamw.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/vector.cuh"

namespace samba {
namespace {

constexpr int kThreads = 256;

struct Factors {
  float beta1, rest1, beta2, rest2;
  float rate;         ///< lr / (1 - beta1^step)
  float correction2;  ///< 1 / (1 - beta2^step)
  float decay;        ///< lr weight_decay
  float eps;
};

Factors factors_of(const op::AdamW& op) {
  const auto steps = static_cast<double>(op.step);
  return {.beta1 = static_cast<float>(op.beta1),
          .rest1 = static_cast<float>(1 - op.beta1),
          .beta2 = static_cast<float>(op.beta2),
          .rest2 = static_cast<float>(1 - op.beta2),
          .rate = static_cast<float>(op.lr / (1 - std::pow(op.beta1, steps))),
          .correction2 = static_cast<float>(1 / (1 - std::pow(op.beta2, steps))),
          .decay = static_cast<float>(op.lr * op.weight_decay),
          .eps = static_cast<float>(op.eps)};
}

/// What gradients are scaled by; kNever where a sum is no number.
constexpr float kNever = -1;
__global__ void find_scale(const op::AdamW op, float* scale) {
  const double* sums = op.sums.row<double>(0);
  const double norm = sqrt(sums[0]);
  *scale = op.clip > 0 && norm > op.clip ? static_cast<float>(op.clip / norm) : 1;
  for (Index i = 0; i < op.sums.cols; ++i)
    if (sums[i] - sums[i] != 0) *scale = kNever;
}

/// A thread takes n neighbouring parameters. No `scale`: 1.
template <int n>
__global__ void adamw(const op::AdamW op, const Factors f, const float* scale_found) {
  const Index first = (Index{blockIdx.x} * kThreads + threadIdx.x) * n;
  const float scale = scale_found == nullptr ? 1 : *scale_found;
  if (first >= op.w.cols || scale == kNever) return;
  float w[n], m[n], v[n], gradient[n];
  load<n>(gradient, op.gradient.row<float>(0) + first);
  load<n>(m, op.m.row<float>(0) + first);
  load<n>(v, op.v.row<float>(0) + first);
  load<n>(w, op.w.row<float>(0) + first);
#pragma unroll
  for (int i = 0; i < n; ++i) {
    const float g = scale * gradient[i];
    m[i] = f.beta1 * m[i] + f.rest1 * g;
    v[i] = f.beta2 * v[i] + f.rest2 * g * g;
    // w less a sum, not w times (1 - decay): that factor's rounding error is as large as a
    // thousandth of the decay itself, and the same at every step.
    w[i] -= f.decay * w[i] + f.rate * m[i] / (sqrtf(v[i] * f.correction2) + f.eps);
  }
  store<n>(op.m.row<float>(0) + first, m);
  store<n>(op.v.row<float>(0) + first, v);
  store<n>(op.w.row<float>(0) + first, w);
  if (!op.rounded.empty()) store<n>(op.rounded.row<Bf16>(0) + first, w);
}

/// Elements that a block of the sum of squares adds.
constexpr Index kShare = 64 * kThreads;

template <class T, int n>
__global__ void add_squares(const op::SumOfSquares op, Index across, double* sums) {
  __shared__ double scratch[kThreads / 32];
  const Index row = blockIdx.x / across, first = blockIdx.x % across * kShare;
  const Index end = min(op.x.cols, first + kShare);
  const T* x = op.x.row<T>(row);
  double sum = 0;
#pragma unroll 4
  for (Index i = first + Index{threadIdx.x} * n; i < end; i += kThreads * n) {
    float values[n];
    load<n>(values, x + i);
#pragma unroll
    for (int k = 0; k < n; ++k) sum += static_cast<double>(values[k]) * values[k];
  }
  sum = block_sum<kThreads>(sum, scratch);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void add_shares(const double* sums, Index count, double* to) {
  constexpr int kAll = 1024;
  __shared__ double scratch[kAll / 32];
  double sum = 0;
#pragma unroll 4
  for (Index i = threadIdx.x; i < count; i += kAll) sum += sums[i];
  sum = block_sum<kAll>(sum, scratch);
  if (threadIdx.x == 0) *to += sum;
}

}  // namespace

void run_on(CudaStream& stream, const op::AdamW& op) {
  const auto blocks = [&](int n) {
    return static_cast<unsigned>(ceil_div(op.w.cols, Index{kThreads} * n));
  };
  const Factors factors = factors_of(op);
  const Matrix scale = op.sums.empty() ? Matrix() : Matrix(stream, DType::f32, 1, 1);
  float* found = scale.empty() ? nullptr : scale.row<float>(0);
  if (found != nullptr) launch(stream, find_scale, 1, 1, 0, op, found);
  // One row: how far it is to a second does not matter.
  const auto one = [](auto view) {
    view.stride = view.cols;
    return view;
  };
  if (aligned(4, one(op.w), one(op.rounded), one(op.m), one(op.v), one(op.gradient)))
    launch(stream, adamw<4>, blocks(4), kThreads, 0, op, factors, found);
  else
    launch(stream, adamw<1>, blocks(1), kThreads, 0, op, factors, found);
}

void run_on(CudaStream& stream, const op::SumOfSquares& op) {
  const Index across = ceil_div(op.x.cols, kShare), count = op.x.rows * across;
  const Matrix scratch(stream, DType::f64, 1, count);
  double* sums = scratch.row<double>(0);
  visit_float(op.dtype(), [&]<class T>() {
    const auto blocks = static_cast<unsigned>(count);
    if (aligned(4, op.x))
      launch(stream, add_squares<T, 4>, blocks, kThreads, 0, op, across, sums);
    else
      launch(stream, add_squares<T, 1>, blocks, kThreads, 0, op, across, sums);
  });
  launch(stream, add_shares, 1, 1024, 0, sums, count, op.sum.row<double>(0));
}

}  // namespace samba
