#include <algorithm>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/vector.cuh"
#include "kernels/gated_norm.h"

namespace samba {
namespace {

// A warp takes a head of a row, a lane of it runs of kRun columns, a warp's width apart.
constexpr int kRun = 4, kWarps = 8, kThreads = 32 * kWarps;

__device__ inline int lane() {
  return static_cast<int>(threadIdx.x) % 32;
}
__device__ inline int warp() {
  return static_cast<int>(threadIdx.x) / 32;
}

/// Calls f(run, its first column, columns left) for the runs of this lane: at most `kept`, whose
/// numbers are constants then, or with 0 all that a head has.
template <int kept, class F>
__device__ inline void visit_runs(Index width, const F& f) {
  if constexpr (kept > 0) {
#pragma unroll
    for (int run = 0; run < kept; ++run) {
      const Index col = (run * 32 + lane()) * kRun;
      if (col < width) f(run, col, width - col);
    }
  } else {
    for (Index col = lane() * kRun; col < width; col += 32 * kRun) f(0, col, width - col);
  }
}

/// With kept > 0 a head is at most `kept` runs a lane and stays in registers; else it is read
/// twice.
template <class T, bool whole, int kept>
__global__ void __launch_bounds__(kThreads) gated_norm(const op::GatedNorm op) {
  let_next_begin();
  wait_for_previous();
  constexpr int kHeld = kept > 0 ? kept : 1;
  const Index width = op.w.cols;
  const auto [row, head] = place_of<1>(Index{blockIdx.x} * kWarps + warp(), op.y.cols / width);
  if (row >= op.y.rows) return;
  const T* from = op.x.row<T>(row) + head * width;
  const T* gate = op.gate.row<T>(row) + head * width;
  T* y = op.y.row<T>(row) + head * width;
  float x[kHeld][kRun], g[kHeld][kRun];
  const auto load_head = [&](int run, Index col, Index left) {
    load_run<whole>(x[run], from + col, left);
    load_run<whole>(g[run], gate + col, left);
  };
  float squares = 0;
  if constexpr (kept > 0) visit_runs<kept>(width, load_head);
  visit_runs<kept>(width, [&](int run, Index col, Index left) {
    if constexpr (kept == 0) load_run<whole>(x[run], from + col, left);
#pragma unroll
    for (int i = 0; i < kRun; ++i) squares += x[run][i] * x[run][i];
  });
  squares = warp_sum(squares);
  const float scale = 1 / sqrtf(squares / static_cast<float>(width) + static_cast<float>(op.eps));
  visit_runs<kept>(width, [&](int run, Index col, Index left) {
    if constexpr (kept == 0) load_head(run, col, left);
    float w[kRun];
    load_run<whole>(w, op.w.row<float>(0) + col, left);
#pragma unroll
    for (int i = 0; i < kRun; ++i) x[run][i] *= scale * w[i] * silu<T>(g[run][i]);
    store_run<whole>(y + col, x[run], left);
  });
}

/// Warp n of all takes heads n * share .. (n + 1) * share - 1, counted row by row. With kept > 0
/// the part of dw stays in registers too, and row b of `partial` holds that of block b; else it
/// grows in row n.
template <class T, bool whole, int kept>
__global__ void __launch_bounds__(kThreads)
    gated_norm_backward(const op::GatedNormBackward op, Index share, const View partial) {
  constexpr int kHeld = kept > 0 ? kept : 1;
  const Index width = op.w.cols, heads = op.dy.cols / width;
  const Index number = Index{blockIdx.x} * kWarps + warp();
  const Index end = min(op.dy.rows * heads, (number + 1) * share);
  float dw[kHeld][kRun] = {}, weight[kHeld][kRun];
  float* grown = kept > 0 ? nullptr : partial.row<float>(number);
  const auto load_weight = [&](int run, Index col, Index left) {
    load_run<whole>(weight[run], op.w.row<float>(0) + col, left);
  };
  if constexpr (kept > 0) visit_runs<kept>(width, load_weight);
  if constexpr (kept == 0)
    for (Index col = lane() * kRun; col < width; col += 32 * kRun)
      for (Index i = col; i < min(width, col + kRun); ++i) grown[i] = 0;
  for (Index next = number * share; next < end; ++next) {
    const auto [row, head] = place_of<1>(next, heads);
    const Index first = head * width;
    float d[kHeld][kRun], x[kHeld][kRun], g[kHeld][kRun];
    const auto load_head = [&](int run, Index col, Index left) {
      load_run<whole>(d[run], op.dy.row<T>(row) + first + col, left);
      load_run<whole>(x[run], op.x.row<T>(row) + first + col, left);
      load_run<whole>(g[run], op.gate.row<T>(row) + first + col, left);
      if constexpr (kept == 0) load_weight(run, col, left);
    };
    if constexpr (kept > 0) visit_runs<kept>(width, load_head);
    float projection = 0, squares = 0;
    visit_runs<kept>(width, [&](int run, Index col, Index left) {
      if constexpr (kept == 0) load_head(run, col, left);
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        projection += d[run][i] * weight[run][i] * silu<T>(g[run][i]) * x[run][i];
        squares += x[run][i] * x[run][i];
      }
    });
    projection = warp_sum(projection);
    squares = warp_sum(squares);
    const float scale = 1 / sqrtf(squares / static_cast<float>(width) + static_cast<float>(op.eps));
    const float along = projection * scale * scale / static_cast<float>(width);
    visit_runs<kept>(width, [&](int run, Index col, Index left) {
      if constexpr (kept == 0) load_head(run, col, left);
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        const float s = sigmoid<T>(g[run][i]), opened = d[run][i] * g[run][i] * s;
        const float change = opened * x[run][i] * scale;
        if constexpr (kept > 0)
          dw[run][i] += change;
        else if (i < left)
          grown[col + i] += change;
        g[run][i] = d[run][i] * weight[run][i] * x[run][i] * scale * silu_slope(g[run][i], s);
        x[run][i] = scale * (opened * weight[run][i] - x[run][i] * along);
      }
      store_run<whole>(op.dgate.row<T>(row) + first + col, g[run], left);
      store_run<whole>(op.dx.row<T>(row) + first + col, x[run], left);
    });
  }
  if constexpr (kept > 0) {
    __shared__ alignas(16) float shares[kWarps][kept * 32 * kRun];
#pragma unroll
    for (int run = 0; run < kept; ++run)
      store<kRun>(&shares[warp()][(run * 32 + lane()) * kRun], dw[run]);
    __syncthreads();
    for (Index col = threadIdx.x; col < width; col += kThreads) {
      float sum = 0;
#pragma unroll
      for (int other = 0; other < kWarps; ++other) sum += shares[other][col];
      partial.row<float>(blockIdx.x)[col] = sum;
    }
  }
}

constexpr Index kColumns = 32 * kRun;  // of a run of all lanes

template <class T, bool whole>
void launch_forward(CudaStream& stream, const op::GatedNorm& op, Index heads) {
  const Index width = op.w.cols;
  const auto kernel = width <= kColumns       ? gated_norm<T, whole, 1>
                      : width <= 4 * kColumns ? gated_norm<T, whole, 4>
                                              : gated_norm<T, whole, 0>;
  launch_early(stream, kernel, static_cast<unsigned>(ceil_div(heads, Index{kWarps})), kThreads, 0,
               op);
}

template <class T, bool whole>
void launch_backward(CudaStream& stream, const op::GatedNormBackward& op, Index heads) {
  const Index width = op.w.cols;
  const bool kept = width <= 4 * kColumns;
  const auto kernel = width <= kColumns ? gated_norm_backward<T, whole, 1>
                      : kept            ? gated_norm_backward<T, whole, 4>
                                        : gated_norm_backward<T, whole, 0>;
  const Index blocks =
      std::min(ceil_div(heads, Index{kWarps}), blocks_at_once(stream, kernel, kThreads));
  const Index share = ceil_div(heads, blocks * kWarps);
  const Matrix partial(stream, DType::f32, kept ? blocks : blocks * kWarps, width);
  launch(stream, kernel, static_cast<unsigned>(blocks), kThreads, 0, op, share, partial.view());
  add_sum_of_rows(stream, op.dw, partial);
}

}  // namespace

void run_on(CudaStream& stream, const op::GatedNorm& op) {
  const Index width = op.w.cols, heads = op.y.rows * (op.y.cols / width);
  const bool whole = width % kRun == 0 && aligned(kRun, op.y, op.x, op.gate, op.w);
  visit_float(op.dtype(), [&]<class T>() {
    if (whole)
      launch_forward<T, true>(stream, op, heads);
    else
      launch_forward<T, false>(stream, op, heads);
  });
}

void run_on(CudaStream& stream, const op::GatedNormBackward& op) {
  const Index width = op.w.cols, heads = op.dy.rows * (op.dy.cols / width);
  if (heads == 0) return;
  const bool whole =
      width % kRun == 0 && aligned(kRun, op.dx, op.dgate, op.dy, op.x, op.gate, op.w);
  visit_float(op.dtype(), [&]<class T>() {
    if (whole)
      launch_backward<T, true>(stream, op, heads);
    else
      launch_backward<T, false>(stream, op, heads);
  });
}

}  // namespace samba
