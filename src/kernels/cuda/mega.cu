#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/vector.cuh"
#include "kernels/mega.h"

namespace samba {
namespace {

constexpr int kThreads = 256;

unsigned blocks(ConstView v, int n) {
  return static_cast<unsigned>(ceil_div(v.rows * v.cols, Index{kThreads} * n));
}

/// A thread takes n neighbouring columns of one row of z.
template <class T, int n>
__global__ void query_key(const op::MegaQueryKey op) {
  let_next_begin();
  wait_for_previous();
  const Index width = op.z.cols;
  const auto [row, col] = place_of<n>(Index{blockIdx.x} * kThreads + threadIdx.x, width);
  if (row >= op.z.rows) return;
  const auto inverse = static_cast<float>(1 / op.scale);
  float z[n], gamma_q[n], gamma_k[n], beta[n], bias_q[n], bias_k[n];
  load<n>(z, op.z.row<T>(row) + col);
  load<n>(gamma_q, op.gamma.row<float>(0) + col);
  load<n>(gamma_k, op.gamma.row<float>(1) + col);
  load<n>(beta, op.beta.row<float>(0) + col);
  load<n>(bias_q, op.bias.row<float>(0) + col);
  load<n>(bias_k, op.bias.row<float>(1) + col);
#pragma unroll
  for (int i = 0; i < n; ++i) {
    const float s = silu<T>(z[i]);
    gamma_q[i] = s * gamma_q[i] + beta[i];
    gamma_k[i] *= s;
    bias_q[i] *= inverse;
  }
  T* q = op.q.row<T>(row) + col;
  T* k = op.k.row<T>(row) + col;
  store<n>(q, gamma_q);
  store<n>(k, gamma_k);
  store<n>(q + width, bias_q);
  store<n>(k + width, bias_k);
}

/// What a row adds to the gradients of parameters, each a block of columns of the partial sums.
enum Sum { kGammaQ, kGammaK, kBeta, kBiasQ, kBiasK, kSums };

constexpr int kColumns = 32, kRowsAtOnce = kThreads / kColumns;
constexpr Index kRows = 64;  // that a block takes

/// Block (x, y) takes columns x * kColumns .. and rows y * kRows .., warp by warp, and leaves its
/// sums in row y of `partial`.
template <class T>
__global__ void __launch_bounds__(kThreads)
    query_key_backward(const op::MegaQueryKeyBackward op, const View partial) {
  __shared__ float shares[kRowsAtOnce][kSums][kColumns];
  const int lane = static_cast<int>(threadIdx.x) % kColumns,
            warp = static_cast<int>(threadIdx.x) / kColumns;
  const Index width = op.z.cols, col = Index{blockIdx.x} * kColumns + lane;
  const Index first = Index{blockIdx.y} * kRows, end = min(op.z.rows, first + kRows);
  float sums[kSums] = {};
  if (col < width) {
    const auto inverse = static_cast<float>(1 / op.scale);
    const float gamma_q = op.gamma.row<float>(0)[col], gamma_k = op.gamma.row<float>(1)[col];
#pragma unroll 2
    for (Index row = first + warp; row < end; row += kRowsAtOnce) {
      const T* dq = op.dq.row<T>(row) + col;
      const T* dk = op.dk.row<T>(row) + col;
      const float z = to_float(op.z.row<T>(row)[col]);
      const float d_q = to_float(dq[0]), d_k = to_float(dk[0]), s = sigmoid<T>(z);
      op.dz.row<T>(row)[col] = from_float<T>((d_q * gamma_q + d_k * gamma_k) * silu_slope(z, s));
      sums[kGammaQ] += d_q * z * s;
      sums[kGammaK] += d_k * z * s;
      sums[kBeta] += d_q;
      sums[kBiasQ] += to_float(dq[width]) * inverse;
      sums[kBiasK] += to_float(dk[width]);
    }
  }
#pragma unroll
  for (int sum = 0; sum < kSums; ++sum) shares[warp][sum][lane] = sums[sum];
  __syncthreads();
  if (warp >= kSums || col >= width) return;
  float sum = 0;
#pragma unroll
  for (int other = 0; other < kRowsAtOnce; ++other) sum += shares[other][warp][lane];
  partial.row<float>(blockIdx.y)[warp * width + col] = sum;
}

template <class T, int n>
__global__ void gate(const op::MegaGate op) {
  let_next_begin();
  wait_for_previous();
  const auto [row, col] = place_of<n>(Index{blockIdx.x} * kThreads + threadIdx.x, op.y.cols);
  if (row >= op.y.rows) return;
  float u[n], h[n], hx[n], x[n];
  load<n>(u, op.u.row<T>(row) + col);
  load<n>(h, op.h.row<T>(row) + col);
  load<n>(hx, op.hx.row<T>(row) + col);
  load<n>(x, op.x.row<T>(row) + col);
#pragma unroll
  for (int i = 0; i < n; ++i) u[i] = sigmoid<T>(u[i]) * (silu<T>(h[i] + hx[i]) - x[i]);
  store<n>(op.y.row<T>(row) + col, u);
}

template <class T, int n>
__global__ void gate_backward(const op::MegaGateBackward op) {
  const auto [row, col] = place_of<n>(Index{blockIdx.x} * kThreads + threadIdx.x, op.dy.cols);
  if (row >= op.dy.rows) return;
  float dy[n], u[n], h[n], hx[n], x[n];
  load<n>(dy, op.dy.row<T>(row) + col);
  load<n>(u, op.u.row<T>(row) + col);
  load<n>(h, op.h.row<T>(row) + col);
  load<n>(hx, op.hx.row<T>(row) + col);
  load<n>(x, op.x.row<T>(row) + col);
#pragma unroll
  for (int i = 0; i < n; ++i) {
    const float sum = h[i] + hx[i], s = sigmoid<T>(sum);
    // sigmoid and its slope without the difference of 1 and a number near 1.
    const float e = exponential<T>(-fabsf(u[i])), larger = quotient<T>(1, 1 + e);
    const float opened = u[i] > 0 ? larger : e * larger;
    u[i] = dy[i] * (sum * s - x[i]) * (e * larger * larger);
    h[i] = dy[i] * opened * silu_slope(sum, s);
    x[i] = -dy[i] * opened;
  }
  store<n>(op.du.row<T>(row) + col, u);
  store<n>(op.dh.row<T>(row) + col, h);
  store<n>(op.dx.row<float>(row) + col, x);
}

}  // namespace

void run_on(CudaStream& stream, const op::MegaQueryKey& op) {
  visit_float(op.dtype(), [&]<class T>() {
    if (op.z.cols % 4 == 0 && aligned(4, op.q, op.k, op.z, op.gamma, op.beta, op.bias))
      launch_early(stream, query_key<T, 4>, blocks(op.z, 4), kThreads, 0, op);
    else
      launch_early(stream, query_key<T, 1>, blocks(op.z, 1), kThreads, 0, op);
  });
}

void run_on(CudaStream& stream, const op::MegaQueryKeyBackward& op) {
  const Index width = op.z.cols, parts = ceil_div(op.z.rows, kRows);
  if (parts == 0 || width == 0) return;
  const Matrix partial(stream, DType::f32, parts, kSums * width);
  const dim3 grid(static_cast<unsigned>(ceil_div(width, Index{kColumns})),
                  static_cast<unsigned>(parts));
  visit_float(op.dtype(), [&]<class T>() {
    launch(stream, query_key_backward<T>, grid, kThreads, 0, op, partial.view());
  });
  const auto add = [&](View to, Sum sum) {
    add_sum_of_rows(stream, to, partial.view().columns(sum * width, width));
  };
  add(op.dgamma.block(0, 1), kGammaQ);
  add(op.dgamma.block(1, 1), kGammaK);
  add(op.dbeta, kBeta);
  add(op.dbias.block(0, 1), kBiasQ);
  add(op.dbias.block(1, 1), kBiasK);
}

void run_on(CudaStream& stream, const op::MegaGate& op) {
  visit_float(op.dtype(), [&]<class T>() {
    if (aligned(4, op.y, op.u, op.h, op.hx, op.x))
      launch_early(stream, gate<T, 4>, blocks(op.y, 4), kThreads, 0, op);
    else
      launch_early(stream, gate<T, 1>, blocks(op.y, 1), kThreads, 0, op);
  });
}

void run_on(CudaStream& stream, const op::MegaGateBackward& op) {
  visit_float(op.dtype(), [&]<class T>() {
    if (aligned(4, op.du, op.dh, op.dx, op.dy, op.u, op.h, op.hx, op.x))
      launch(stream, gate_backward<T, 4>, blocks(op.dy, 4), kThreads, 0, op);
    else
      launch(stream, gate_backward<T, 1>, blocks(op.dy, 1), kThreads, 0, op);
  });
}

}  // namespace samba
