#include <type_traits>

#include "kernels/causal_conv1d.h"
#include "kernels/cuda/causal_conv1d.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/raw.cuh"
#include "kernels/cuda/scan_math.cuh"
#include "kernels/cuda/spans.cuh"

// With four taps, the usual number, and rows that can be read four channels at a time, a thread
// walks along a tile of rows and keeps the last ones in registers. Other shapes take a thread for
// each element, which reads all that its taps see.

namespace samba {
namespace {

constexpr int kThreads = 128;
constexpr int kWide = 4;           // their threads' channels
constexpr int kRows = 32;          // of a tile, forward
constexpr int kBackwardRows = 64;  // of a tile, backward: each leaves a row of sums
constexpr int kAhead = 8;          // rows that a thread asks for at once
constexpr int kBackwardAhead = 4;  // backward, of both inputs
constexpr int kBlocks = 5;         // that registers leave room for in a multiprocessor
constexpr int kBackwardBlocks = 4;
constexpr int kColumns = 32;  // of a block that adds rows of sums, and
constexpr int kAdders = 16;   // its threads for each of them

unsigned blocks(Index threads) {
  return static_cast<unsigned>(ceil_div(threads, Index{kThreads}));
}

/// What the taps see of a span.
struct Before {
  ConstView x;
  ConstView state;
  Span span;
  Index taps, channels;

  /// Channel e of its token t; of its state where t < 0, or nothing.
  template <class T>
  __device__ float get(Index t, Index e) const {
    if (t >= 0) return to_float(x.row<T>(span.first + t)[e]);
    if (state.empty() || span.slot < 0 || span.position == 0) return 0;
    return state.row<float>(span.slot)[(taps - 1 + t) * channels + e];
  }
};

/// The weights of a thread's channels.
struct Weights {
  float w[kTaps][kWide];
  float bias[kWide];

  __device__ Weights(ConstView from, ConstView bias_view, Index e) {
#pragma unroll
    for (int k = 0; k < kWide; ++k) {
#pragma unroll
      for (int j = 0; j < kTaps; ++j) w[j][k] = from.row<float>(e + k)[j];
      bias[k] = bias_view.empty() ? 0 : bias_view.row<float>(0)[e + k];
    }
  }
  /// The sum over the taps, the last of which sees `now` and the others the rows before.
  __device__ float sum(const float (&before)[kTaps - 1][kWide], const float (&now)[kWide],
                       int k) const {
    float total = bias[k];
#pragma unroll
    for (int j = 0; j < kTaps - 1; ++j) total = fmaf(w[j][k], before[j][k], total);
    return fmaf(w[kTaps - 1][k], now[k], total);
  }
};

/// rows: the last ones, oldest first.
__device__ inline void shift(float (&rows)[kTaps - 1][kWide], const float (&now)[kWide]) {
#pragma unroll
  for (int k = 0; k < kWide; ++k) {
#pragma unroll
    for (int j = 0; j + 1 < kTaps - 1; ++j) rows[j][k] = rows[j + 1][k];
    rows[kTaps - 2][k] = now[k];
  }
}

/// Rows first .. last - 1 of a span that lie in a thread's tile.
struct Segment {
  Span span;
  int first, last;

  __device__ int end() const { return static_cast<int>(span.first + span.length); }
};

/// Calls f(segment) for those of rows first .. last - 1.
template <class F>
__device__ inline void for_segments(const Batch& batch, Index first, Index last, const F& f) {
  Index i = span_of(batch, first);
  while (first < last) {
    const Span span = batch.spans[i++];
    const Index end = min(last, span.first + span.length);
    f(Segment{span, static_cast<int>(first), static_cast<int>(end)});
    first = end;
  }
}

/// The rows before a segment that its first taps see.
template <class T>
__device__ inline void load_before(float (&rows)[kTaps - 1][kWide], const Before& known, int first,
                                   int e) {
  const Index t = first - known.span.first;
  if (t >= kTaps - 1) {
#pragma unroll
    for (int j = 0; j < kTaps - 1; ++j) {
      Raw<T, kWide> raw;
      raw.template load<true>(at<T>(known.x, first + j - (kTaps - 1), e), kWide);
#pragma unroll
      for (int k = 0; k < kWide; ++k) rows[j][k] = raw[k];
    }
    return;
  }
#pragma unroll
  for (int j = 0; j < kTaps - 1; ++j)
#pragma unroll
    for (int k = 0; k < kWide; ++k) rows[j][k] = known.get<T>(t + j - (kTaps - 1), e + k);
}

template <class T>
__global__ void __launch_bounds__(kThreads, kBlocks) convolve(const op::CausalConv1d op) {
  const int channels = static_cast<int>(op.y.cols), parts = ceil_div(channels, kThreads * kWide);
  const int e = (static_cast<int>(blockIdx.x) % parts * kThreads + threadIdx.x) * kWide;
  if (e >= channels) return;
  const Weights weights(op.w, op.bias, e);
  const Index begin = Index{blockIdx.x / parts} * kRows;
  for_segments(op.batch, begin, min(begin + kRows, op.y.rows), [&](const Segment& segment) {
    float before[kTaps - 1][kWide];
    load_before<T>(before, {op.x, op.state, segment.span, kTaps, channels}, segment.first, e);
    Raw<T, kWide> next[kAhead];
    const auto load = [&](int row) {
#pragma unroll
      for (int i = 0; i < kAhead; ++i)
        if (row + i < segment.last) next[i].template load<true>(at<T>(op.x, row + i, e), kWide);
    };
    load(segment.first);
    for (int row = segment.first; row < segment.last; row += kAhead) {
      Raw<T, kWide> now[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) now[i] = next[i];
      load(row + kAhead);
      const auto convolve_row = [&](int i) {
        float x[kWide], y[kWide];
#pragma unroll
        for (int k = 0; k < kWide; ++k) x[k] = now[i][k];
#pragma unroll
        for (int k = 0; k < kWide; ++k) {
          const float sum = weights.sum(before, x, k);
          y[k] = sum * sigmoid_of<T>(sum);
        }
        store(at<T>(op.y, row + i, e), y);
        shift(before, x);
      };
      if (row + kAhead <= segment.last) {
#pragma unroll
        for (int i = 0; i < kAhead; ++i) convolve_row(i);
      } else {
#pragma unroll
        for (int i = 0; i < kAhead; ++i)
          if (row + i < segment.last) convolve_row(i);
      }
    }
  });
}

/// The sum over the taps at token t of a span.
template <class T>
__device__ float sum_at(const Before& known, ConstView w, ConstView bias, Index t, Index e) {
  float total = bias.empty() ? 0 : bias.row<float>(0)[e];
  for (Index j = 0; j < w.cols; ++j)
    total = fmaf(w.row<float>(e)[j], known.get<T>(t - (w.cols - 1) + j, e), total);
  return total;
}

template <class T>
__global__ void convolve_any(const op::CausalConv1d op) {
  const Index i = Index{blockIdx.x} * kThreads + threadIdx.x, channels = op.y.cols;
  const Index row = i / channels, e = i % channels;
  if (row >= op.y.rows) return;
  const Span span = op.batch.spans[span_of(op.batch, row)];
  const Before known{op.x, op.state, span, op.w.cols, channels};
  const float sum = sum_at<T>(known, op.w, op.bias, row - span.first, e);
  op.y.row<T>(row)[e] = from_float<T>(sum * sigmoid_of<T>(sum));
}

/// Leaves each span's last rows, once all have read what was there. A state moves towards its
/// start, so that a thread, which has one channel of it, writes nothing that it reads later.
template <class T>
__global__ void keep_state(const op::CausalConv1d op) {
  const Index i = Index{blockIdx.x} * kThreads + threadIdx.x, channels = op.y.cols;
  const Index index = i / channels, e = i % channels;
  if (index >= op.batch.count) return;
  const Span span = op.batch.spans[index];
  if (span.slot < 0) return;
  const Index taps = op.w.cols;
  const Before known{op.x, op.state, span, taps, channels};
  for (Index j = 0; j + 1 < taps; ++j)
    op.state.row<float>(span.slot)[j * channels + e] =
        known.get<T>(span.length - (taps - 1) + j, e);
}

/// Spans of one token: a thread has a channel of one, and of its state.
template <class T>
__global__ void __launch_bounds__(kThreads) step(const op::CausalConv1d op) {
  let_next_begin();
  const Index i = Index{blockIdx.x} * kThreads + threadIdx.x, channels = op.y.cols;
  const Index row = i / channels, e = i % channels;
  const bool exists = row < op.y.rows;
  const TokenConvolution convolution(op, exists ? row : 0, e);
  wait_for_previous();
  if (!exists) return;
  op.y.row<T>(row)[e] = from_float<T>(convolution.run<T>(op, to_float(op.x.row<T>(row)[e])));
}

/// sums: [tiles, (kTaps + 1) E], what each tile of rows adds to dw, tap by tap, and to dbias.
template <class T>
__global__ void __launch_bounds__(kThreads, kBackwardBlocks)
    convolve_backward(const op::CausalConv1dBackward op, const View sums) {
  const int channels = static_cast<int>(op.dy.cols), parts = ceil_div(channels, kThreads * kWide);
  const int e = (static_cast<int>(blockIdx.x) % parts * kThreads + threadIdx.x) * kWide;
  if (e >= channels) return;
  const Weights weights(op.w, op.bias, e);
  const Index tile = blockIdx.x / parts, begin = tile * kBackwardRows;
  float dw[kTaps + 1][kWide] = {};
  for_segments(op.batch, begin, min(begin + kBackwardRows, op.dy.rows), [&](const Segment& part) {
    float before[kTaps - 1][kWide], slopes[kTaps - 1][kWide] = {};
    load_before<T>(before, {op.x, {}, part.span, kTaps, channels}, part.first, e);
    // A row's gradient needs those of the sums of the rows that it reaches, also behind the tile.
    const int end = min(part.last + kTaps - 1, part.end());
    const auto rows = [&](int row, auto all_there) {
      constexpr bool all = decltype(all_there)::value;
      Raw<T, kWide> xs[kBackwardAhead], dys[kBackwardAhead];
#pragma unroll
      for (int i = 0; i < kBackwardAhead; ++i)
        if (all || row + i < end) {
          xs[i].template load<true>(at<T>(op.x, row + i, e), kWide);
          dys[i].template load<true>(at<T>(op.dy, row + i, e), kWide);
        }
#pragma unroll
      for (int i = 0; i < kBackwardAhead; ++i) {
        float slope[kWide] = {};
        if (all || row + i < end) {
          float x[kWide];
#pragma unroll
          for (int k = 0; k < kWide; ++k) {
            x[k] = xs[i][k];
            const float sum = weights.sum(before, x, k);
            slope[k] = dys[i][k] * silu_slope_of(sum, sigmoid_of<T>(sum));
          }
          if (all || row + i < part.last)
#pragma unroll
            for (int k = 0; k < kWide; ++k) {
#pragma unroll
              for (int j = 0; j < kTaps - 1; ++j) dw[j][k] = fmaf(slope[k], before[j][k], dw[j][k]);
              dw[kTaps - 1][k] = fmaf(slope[k], x[k], dw[kTaps - 1][k]);
              dw[kTaps][k] += slope[k];
            }
          shift(before, x);
        }
        const int reached = row + i - (kTaps - 1);
        if (all || (reached >= part.first && reached < part.last)) {
          float dx[kWide];
#pragma unroll
          for (int k = 0; k < kWide; ++k) {
            dx[k] = weights.w[0][k] * slope[k];
#pragma unroll
            for (int j = 1; j < kTaps; ++j)
              dx[k] = fmaf(weights.w[j][k], slopes[kTaps - 1 - j][k], dx[k]);
          }
          store(at<T>(op.dx, reached, e), dx);
        }
        shift(slopes, slope);
      }
    };
    for (int row = part.first; row < part.last + kTaps - 1; row += kBackwardAhead)
      if (row >= part.first + kTaps - 1 && row + kBackwardAhead <= part.last)
        rows(row, std::true_type());
      else
        rows(row, std::false_type());
  });
#pragma unroll
  for (int j = 0; j <= kTaps; ++j) store(sums.row<float>(tile) + j * channels + e, dw[j]);
}

/// Gradients of the sums over the taps, for any number of them.
template <class T>
__global__ void slopes_any(const op::CausalConv1dBackward op, const View slopes) {
  const Index i = Index{blockIdx.x} * kThreads + threadIdx.x, channels = op.dy.cols;
  const Index row = i / channels, e = i % channels;
  if (row >= op.dy.rows) return;
  const Span span = op.batch.spans[span_of(op.batch, row)];
  const Before known{op.x, {}, span, op.w.cols, channels};
  const float sum = sum_at<T>(known, op.w, op.bias, row - span.first, e);
  slopes.row<float>(row)[e] =
      to_float(op.dy.row<T>(row)[e]) * silu_slope_of(sum, sigmoid_of<T>(sum));
}

template <class T>
__global__ void rows_any(const op::CausalConv1dBackward op, const ConstView slopes) {
  const Index i = Index{blockIdx.x} * kThreads + threadIdx.x, channels = op.dy.cols;
  const Index row = i / channels, e = i % channels, taps = op.w.cols;
  if (row >= op.dy.rows) return;
  const Span span = op.batch.spans[span_of(op.batch, row)];
  float dx = 0;
  for (Index j = 0; j < taps; ++j) {
    const Index reached = row + taps - 1 - j;
    if (reached < span.first + span.length)
      dx = fmaf(op.w.row<float>(e)[j], slopes.row<float>(reached)[e], dx);
  }
  op.dx.row<T>(row)[e] = from_float<T>(dx);
}

/// What a tile of rows adds to one element of dw, or to dbias, whose column comes last.
template <class T>
__global__ void sums_any(const op::CausalConv1dBackward op, const ConstView slopes,
                         const View sums) {
  const Index i = Index{blockIdx.x} * kThreads + threadIdx.x, channels = op.dy.cols;
  const Index taps = op.w.cols, tile = i / sums.cols, j = i % sums.cols / channels;
  if (tile >= sums.rows) return;
  const Index e = i % channels, begin = tile * kBackwardRows;
  float total = 0;
  for_segments(op.batch, begin, min(begin + kBackwardRows, op.dy.rows), [&](const Segment& part) {
    const Before known{op.x, {}, part.span, taps, channels};
    for (Index row = part.first; row < part.last; ++row) {
      const float seen = j == taps ? 1 : known.get<T>(row - part.span.first - (taps - 1) + j, e);
      total = fmaf(slopes.row<float>(row)[e], seen, total);
    }
  });
  sums.row<float>(tile)[i % sums.cols] = total;
}

/// Adds the tiles' sums to dw and dbias, in an order of its own.
__global__ void add_sums(const op::CausalConv1dBackward op, const ConstView sums) {
  __shared__ float shares[kAdders][kColumns];
  const Index channels = op.dy.cols, column = Index{blockIdx.x} * kColumns + threadIdx.x;
  float share = 0;
  if (column < sums.cols)
#pragma unroll 8
    for (Index tile = threadIdx.y; tile < sums.rows; tile += kAdders)
      share += sums.row<float>(tile)[column];
  shares[threadIdx.y][threadIdx.x] = share;
  __syncthreads();
  if (threadIdx.y > 0 || column >= sums.cols) return;
  float total = 0;
#pragma unroll
  for (int i = 0; i < kAdders; ++i) total += shares[i][threadIdx.x];
  const Index j = column / channels, e = column % channels;
  if (j < op.w.cols)
    op.dw.row<float>(e)[j] += total;
  else if (!op.dbias.empty())
    op.dbias.row<float>(0)[e] += total;
}

/// Blocks of the fast kernels.
unsigned tiles(ConstView rows, int tile) {
  return static_cast<unsigned>(ceil_div(rows.rows, Index{tile}) *
                               ceil_div(rows.cols, Index{kThreads * kWide}));
}

}  // namespace

void run_on(CudaStream& stream, const op::CausalConv1d& call) {
  op::CausalConv1d op = call;
  const Index elements = op.y.rows * op.y.cols;
  if (elements == 0) return;
  expect_narrow(op.kName, op.y, op.x);
  op.batch.spans =
      stream.resident(std::span(op.batch.spans, static_cast<std::size_t>(op.batch.count)));
  visit_float(op.dtype(), [&]<class T>() {
    if (op.batch.longest == 1)
      return launch_early(stream, step<T>, blocks(elements), kThreads, 0, op);
    if (op.w.cols == kTaps && aligned(kWide, op.y, op.x))
      launch(stream, convolve<T>, tiles(op.y, kRows), kThreads, 0, op);
    else
      launch(stream, convolve_any<T>, blocks(elements), kThreads, 0, op);
    if (!op.state.empty())
      launch(stream, keep_state<T>, blocks(op.batch.count * op.y.cols), kThreads, 0, op);
  });
}

void run_on(CudaStream& stream, const op::CausalConv1dBackward& call) {
  op::CausalConv1dBackward op = call;
  const Index elements = op.dy.rows * op.dy.cols;
  if (elements == 0) return;
  expect_narrow(op.kName, op.dx, op.dy, op.x);
  op.batch.spans =
      stream.resident(std::span(op.batch.spans, static_cast<std::size_t>(op.batch.count)));
  const Matrix sums(stream, DType::f32, ceil_div(op.dy.rows, Index{kBackwardRows}),
                    (op.w.cols + 1) * op.dy.cols);
  visit_float(op.dtype(), [&]<class T>() {
    if (op.w.cols == kTaps && aligned(kWide, op.dx, op.dy, op.x)) {
      launch(stream, convolve_backward<T>, tiles(op.dy, kBackwardRows), kThreads, 0, op,
             sums.view());
    } else {
      const Matrix slopes(stream, DType::f32, op.dy.rows, op.dy.cols);
      launch(stream, slopes_any<T>, blocks(elements), kThreads, 0, op, slopes.view());
      launch(stream, rows_any<T>, blocks(elements), kThreads, 0, op, ConstView(slopes));
      launch(stream, sums_any<T>, blocks(sums.rows() * sums.cols()), kThreads, 0, op,
             ConstView(slopes), sums.view());
    }
  });
  launch(stream, add_sums, static_cast<unsigned>(ceil_div(sums.cols(), Index{kColumns})),
         dim3(kColumns, kAdders), 0, op, ConstView(sums));
}

}  // namespace samba
