#include <algorithm>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/norm.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/vector.cuh"
#include "kernels/rms_norm.h"

namespace samba {
namespace {

// A block takes a row (norm.cuh). Where that is at most kKept runs a thread, they stay in
// registers; longer ones are read twice.
constexpr int kRun = kNormRun, kKept = kNormKept;
/// Backward holds twice as much in registers.
constexpr int kMostThreads = 1024, kMostThreadsBackward = 512;

int threads_for(Index width, int most) {
  return static_cast<int>(32 * std::min<Index>(norm_warps(width), most / 32));
}

bool fits(Index width, int threads) {
  return width <= Index{threads} * kRun * kKept;
}

__device__ inline Index column_of(int run) {
  return (Index{blockDim.x} * run + threadIdx.x) * kRun;
}

/// Loads a run of x + add.
template <class T, bool whole>
__device__ inline void load_sum(const op::RmsNorm& op, Index row, Index col, float (&x)[kRun]) {
  const Index left = op.y.cols - col;
  load_run<whole>(x, op.x.row<float>(row) + col, left);
  if (!op.add.empty()) {
    float add[kRun];
    load_run<whole>(add, op.add.row<T>(row) + col, left);
#pragma unroll
    for (int i = 0; i < kRun; ++i) x[i] += add[i];
  }
}

template <class T, bool whole>
__device__ inline void store_normal(const op::RmsNorm& op, Index row, Index col, float scale,
                                    const float (&x)[kRun]) {
  const Index left = op.y.cols - col;
  float y[kRun], normal[kRun];
  load_run<whole>(y, op.w.row<float>(0) + col, left);
#pragma unroll
  for (int i = 0; i < kRun; ++i) {
    normal[i] = normal_of<T>(x[i], scale);
    y[i] *= normal[i];
  }
  if (!op.normal.empty()) store_run<whole>(op.normal.row<T>(row) + col, normal, left);
  store_run<whole>(op.y.row<T>(row) + col, y, left);
}

template <class T, bool whole, bool kept>
__global__ void rms_norm(const op::RmsNorm op) {
  __shared__ float scratch[kMostThreads / 32];
  let_next_begin();
  wait_for_previous();
  const Index row = blockIdx.x, width = op.y.cols;
  // `sum` may be x itself.
  const bool apart = !op.sum.empty() && (!op.add.empty() || op.sum.data != op.x.data);
  float x[kKept][kRun];
  float squares = 0;
  if constexpr (kept) {
#pragma unroll
    for (int run = 0; run < kKept; ++run) {
      if (column_of(run) >= width) break;
      load_sum<T, whole>(op, row, column_of(run), x[run]);
    }
  }
  const int runs = kept ? kKept : static_cast<int>(ceil_div(width, Index{blockDim.x} * kRun));
#pragma unroll
  for (int run = 0; run < runs; ++run) {
    const Index col = column_of(run);
    if (col >= width) break;
    float (&values)[kRun] = x[kept ? run : 0];
    if constexpr (!kept) load_sum<T, whole>(op, row, col, values);
    if (apart) store_run<whole>(op.sum.row<float>(row) + col, values, width - col);
    add_squares(squares, values);
  }
  squares = block_sum(squares, scratch);
  const float scale = norm_scale(squares, width, op.eps);
  if (threadIdx.x == 0 && !op.scale.empty()) *op.scale.row<float>(row) = scale;
#pragma unroll
  for (int run = 0; run < runs; ++run) {
    const Index col = column_of(run);
    if (col >= width) break;
    float (&values)[kRun] = x[kept ? run : 0];
    if constexpr (!kept) {
      const ConstView from = op.add.empty() ? op.x : ConstView(op.sum);
      load_run<whole>(values, from.row<float>(row) + col, width - col);
    }
    store_normal<T, whole>(op, row, col, scale, values);
  }
}

/// What a thread holds of a row for backward.
struct Run {
  float dy[kRun], normal[kRun], dx[kRun];
};

template <class T, bool whole>
__device__ inline void load_row(const op::RmsNormBackward& op, Index row, Index col, Run& to) {
  const Index left = op.dy.cols - col;
  load_run<whole>(to.dy, op.dy.row<T>(row) + col, left);
  load_run<whole>(to.normal, op.normal.row<T>(row) + col, left);
  load_run<whole>(to.dx, op.dx.row<float>(row) + col, left);
}

/// Block b takes rows b * share .. (b + 1) * share - 1 and leaves their part of dw in row b of
/// `partial`. The next row is on its way while one is worked on.
template <class T, bool whole>
__global__ void __launch_bounds__(kMostThreadsBackward)
    rms_norm_backward_kept(const op::RmsNormBackward op, Index share, const View partial) {
  __shared__ float scratch[2][kMostThreadsBackward / 32];
  const Index width = op.dy.cols, first = blockIdx.x * share;
  const Index end = min(op.dy.rows, first + share);
  float w[kKept][kRun], dw[kKept][kRun] = {};
  Run now[kKept], next[kKept];
#pragma unroll
  for (int run = 0; run < kKept; ++run) {
    const Index col = column_of(run);
    if (col >= width) break;
    load_run<whole>(w[run], op.w.row<float>(0) + col, width - col);
    if (first < end) load_row<T, whole>(op, first, col, next[run]);
  }
  for (Index row = first; row < end; ++row) {
    float projection = 0;
#pragma unroll
    for (int run = 0; run < kKept; ++run) {
      const Index col = column_of(run);
      if (col >= width) break;
      now[run] = next[run];
      if (row + 1 < end) load_row<T, whole>(op, row + 1, col, next[run]);
#pragma unroll
      for (int i = 0; i < kRun; ++i) projection += now[run].dy[i] * w[run][i] * now[run].normal[i];
    }
    // Two scratch rows in turn: the one of a row is free again behind the barrier of the next.
    projection = block_sum(projection, scratch[(row - first) % 2]);
    const float scale = *op.scale.row<float>(row);
    const float along = projection / static_cast<float>(width);
#pragma unroll
    for (int run = 0; run < kKept; ++run) {
      const Index col = column_of(run);
      if (col >= width) break;
#pragma unroll
      for (int i = 0; i < kRun; ++i) {
        const float dy = now[run].dy[i], x = now[run].normal[i];
        now[run].dx[i] += scale * (dy * w[run][i] - x * along);
        dw[run][i] += dy * x;
      }
      store_run<whole>(op.dx.row<float>(row) + col, now[run].dx, width - col);
      if (!op.rounded.empty())
        store_run<whole>(op.rounded.row<T>(row) + col, now[run].dx, width - col);
    }
  }
#pragma unroll
  for (int run = 0; run < kKept; ++run) {
    const Index col = column_of(run);
    if (col >= width) break;
    store_run<whole>(partial.row<float>(blockIdx.x) + col, dw[run], width - col);
  }
}

/// The same for rows of any width, whose part of dw grows in `partial`.
template <class T>
__global__ void rms_norm_backward(const op::RmsNormBackward op, Index share, const View partial) {
  __shared__ float scratch[2][kMostThreadsBackward / 32];
  const Index width = op.dy.cols, first = blockIdx.x * share;
  const Index end = min(op.dy.rows, first + share);
  const float* w = op.w.row<float>(0);
  float* dw = partial.row<float>(blockIdx.x);
  for (Index i = threadIdx.x; i < width; i += blockDim.x) dw[i] = 0;
  for (Index row = first; row < end; ++row) {
    const T* dy = op.dy.row<T>(row);
    const T* normal = op.normal.row<T>(row);
    float* dx = op.dx.row<float>(row);
    float projection = 0;
    for (Index i = threadIdx.x; i < width; i += blockDim.x)
      projection += to_float(dy[i]) * w[i] * to_float(normal[i]);
    projection = block_sum(projection, scratch[(row - first) % 2]);
    const float scale = *op.scale.row<float>(row);
    const float along = projection / static_cast<float>(width);
    for (Index i = threadIdx.x; i < width; i += blockDim.x) {
      const float d = to_float(dy[i]), x = to_float(normal[i]);
      const float sum = dx[i] + scale * (d * w[i] - x * along);
      dx[i] = sum;
      if (!op.rounded.empty()) op.rounded.row<T>(row)[i] = from_float<T>(sum);
      dw[i] += d * x;
    }
  }
}

/// A thread takes n neighbouring columns of one row.
template <class T, int n>
__global__ void scale_columns(const op::ScaleColumns op) {
  const Index runs = op.y.cols / n, i = Index{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= op.y.rows * runs) return;
  const Place place = place_of<n>(i, op.y.cols);
  float x[n], w[n];
  load<n>(x, op.x.row<T>(place.row) + place.col);
  load<n>(w, op.w.row<float>(0) + place.col);
#pragma unroll
  for (int k = 0; k < n; ++k) x[k] *= w[k];
  store<n>(op.y.row<T>(place.row) + place.col, x);
}

}  // namespace

void run_on(CudaStream& stream, const op::ScaleColumns& op) {
  constexpr int kThreads = 256, kColumns = 8;
  const auto blocks = [&](int n) {
    return static_cast<unsigned>(ceil_div(op.y.rows * (op.y.cols / n), Index{kThreads}));
  };
  visit_float(op.dtype(), [&]<class T>() {
    if (aligned(kColumns, op.y, op.x, op.w))
      launch(stream, scale_columns<T, kColumns>, blocks(kColumns), kThreads, 0, op);
    else
      launch(stream, scale_columns<T, 1>, blocks(1), kThreads, 0, op);
  });
}

void run_on(CudaStream& stream, const op::RmsNorm& op) {
  const int threads = threads_for(op.y.cols, kMostThreads);
  const auto rows = static_cast<unsigned>(op.y.rows);
  visit_float(op.dtype(), [&]<class T>() {
    const bool whole = aligned(kRun, op.y, op.normal, op.sum, op.x, op.add, op.w);
    const auto kernel = fits(op.y.cols, threads)
                            ? (whole ? rms_norm<T, true, true> : rms_norm<T, false, true>)
                            : (whole ? rms_norm<T, true, false> : rms_norm<T, false, false>);
    launch_early(stream, kernel, rows, threads, 0, op);
  });
}

void run_on(CudaStream& stream, const op::RmsNormBackward& op) {
  const Index rows = op.dy.rows, width = op.dy.cols;
  if (rows == 0 || width == 0) return;
  const int threads = threads_for(width, kMostThreadsBackward);
  visit_float(op.dtype(), [&]<class T>() {
    const bool whole = aligned(kRun, op.dx, op.rounded, op.dy, op.normal, op.w);
    const auto kernel = !fits(width, threads) ? rms_norm_backward<T>
                        : whole               ? rms_norm_backward_kept<T, true>
                                              : rms_norm_backward_kept<T, false>;
    const Index share = ceil_div(rows, std::min(rows, blocks_at_once(stream, kernel, threads)));
    const Index blocks = ceil_div(rows, share);
    const Matrix partial(stream, DType::f32, blocks, width);
    launch(stream, kernel, static_cast<unsigned>(blocks), threads, 0, op, share, partial.view());
    add_sum_of_rows(stream, op.dw, partial);
  });
}

}  // namespace samba
