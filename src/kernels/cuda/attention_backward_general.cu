#include <vector>

#include "kernels/cuda/attention_backward_parts.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/vector.cuh"

// On CUDA cores, any width, any strides, f32 throughout: a block owns 64 rows of one gradient, or a
// slice of their columns, and meets the rows on the other side in blocks of 64.
namespace samba::attention {
namespace {

constexpr int kRows = 64;
constexpr int kThreads = 256;
constexpr int kPer = 4;     ///< rows and neighbouring columns of a product that a thread computes
constexpr int kDepth = 32;  ///< columns of two factors at a time
constexpr int kMet = 16;    ///< rows of the last factor at a time
constexpr int kPitch = kRows + 4;

/// delta [N, H]: a warp takes a head of a row.
template <class T>
__global__ void dot(const op::AttentionBackward op, View delta) {
  const Index i = (Index{blockIdx.x} * kThreads + threadIdx.x) / 32;
  const Index row = i / op.heads.heads, head = i % op.heads.heads;
  if (row >= op.dy.rows) return;
  const T* y = op.y.row<T>(row) + head * op.heads.value_width;
  const T* dy = op.dy.row<T>(row) + head * op.heads.value_width;
  float sum = 0;
  for (Index d = threadIdx.x % 32; d < op.heads.value_width; d += 32)
    sum += to_float(y[d]) * to_float(dy[d]);
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) delta.row<float>(row)[head] = sum;
}

template <int slice>
struct Shared {
  union {
    float factors[2][kDepth][kPitch];  ///< own rows, met rows
    float met[kMet][slice + 4];
  } in;
  float weights[kRows][kPitch];  ///< [met][own]
};

/// A block of rows of one head.
template <class T>
struct Block {
  const T* data;
  Index stride;
  int rows;  ///< that are there
};

template <class T>
__device__ Block<T> block_of(const ConstView& view, Index row, Index rows, Index col) {
  return {view.row<T>(row) + col, view.stride, static_cast<int>(min(Index{kRows}, rows))};
}

/// d += a b^T for the thread's rows of a and columns of b, which lie as [depth][rows].
template <int depth, int parts, class A, class B>
__device__ void multiply(float (&d)[kPer][parts * kPer], const A& a, const B& b, int row, int col) {
#pragma unroll 8
  for (int k = 0; k < depth; ++k) {
    float x[kPer], y[parts][kPer];
    load<kPer>(x, &a[k][row]);
#pragma unroll
    for (int p = 0; p < parts; ++p) load<kPer>(y[p], &b[k][col + p * kRows]);
#pragma unroll
    for (int i = 0; i < kPer; ++i)
#pragma unroll
      for (int j = 0; j < parts * kPer; ++j) d[i][j] += x[i] * y[j / kPer][j % kPer];
  }
}

/// Adds a part's sums to those of all parts: sums of sums round less than one long sum.
template <int m>
__device__ void add(float (&sums)[kPer][m], const float (&part)[kPer][m]) {
#pragma unroll
  for (int i = 0; i < kPer; ++i)
#pragma unroll
    for (int j = 0; j < m; ++j) sums[i][j] += part[i][j];
}

/// d = a b^T, `width` columns of each.
template <class T, int slice>
__device__ void products(float (&d)[kPer][kPer], const Block<T>& a, const Block<T>& b, Index width,
                         Shared<slice>& shared, int row, int col) {
#pragma unroll
  for (int i = 0; i < kPer; ++i)
#pragma unroll
    for (int j = 0; j < kPer; ++j) d[i][j] = 0;
  for (Index from = 0; from < width; from += kDepth) {
    __syncthreads();
    for (int i = threadIdx.x; i < kRows * kDepth; i += kThreads) {
      const int r = i / kDepth, c = i % kDepth;
      const bool inside = from + c < width;
      shared.in.factors[0][c][r] =
          inside && r < a.rows ? to_float(a.data[r * a.stride + from + c]) : 0.0f;
      shared.in.factors[1][c][r] =
          inside && r < b.rows ? to_float(b.data[r * b.stride + from + c]) : 0.0f;
    }
    __syncthreads();
    float part[kPer][kPer] = {};
    multiply<kDepth, 1>(part, shared.in.factors[0], shared.in.factors[1], row, col);
    add(d, part);
  }
}

/// blockIdx.y is the head of the gradient, blockIdx.z its slice of columns.
template <class T, Gradient gradient, int slice>
__global__ void __launch_bounds__(kThreads, 2)
    differentiate(const op::AttentionBackward op, const ConstView delta, const Tile* tiles) {
  constexpr bool kOfQueries = gradient == Gradient::dq;
  __shared__ Shared<slice> shared;
  const Tile tile = tiles[blockIdx.x];
  const Span span = op.batch.spans[tile.span];
  const Index width = op.heads.width, value_width = op.heads.value_width;
  const Index group = op.heads.heads / op.heads.kv_heads;
  const Index kv_head = kOfQueries ? blockIdx.y / group : blockIdx.y;
  const Index first_head = kOfQueries ? blockIdx.y : blockIdx.y * group;
  const Index heads = kOfQueries ? 1 : group;
  const Index own_rows = min(Index{kRows}, span.length - tile.first);
  const Index own_end = tile.first + own_rows;
  const Index own_row = span.first + tile.first;
  // Of the span's rows on the other side.
  const Index begin = kOfQueries ? first_seen(op, span.position, tile.first) : tile.first;
  const Index end =
      kOfQueries ? own_end : min(span.length, last_seeing(op, span.position, own_end - 1) + 1);
  const View to = gradient == Gradient::dq ? op.dq : gradient == Gradient::dk ? op.dk : op.dv;
  const Index to_width = gradient == Gradient::dv ? value_width : width;
  const Index slice_col = Index{blockIdx.z} * slice;
  const int slice_cols = static_cast<int>(min(Index{slice}, to_width - slice_col));
  const float scale = static_cast<float>(op.scale * kLog2e);
  const int row = threadIdx.x / 16 * kPer, col = threadIdx.x % 16 * kPer;

  float sums[kPer][slice / 16] = {};
  for (Index head = first_head; head < first_head + heads; ++head)
    for (Index met = begin; met < end; met += kRows) {
      const Index query_row = span.first + (kOfQueries ? tile.first : met);
      const Index key_row = span.first + (kOfQueries ? met : tile.first);
      const Index queries = kOfQueries ? own_rows : end - met;
      const Index keys = kOfQueries ? end - met : own_rows;
      const auto q = block_of<T>(op.q, query_row, queries, head * width);
      const auto dy = block_of<T>(op.dy, query_row, queries, head * value_width);
      const auto k = block_of<T>(op.k, key_row, keys, kv_head * width);
      const auto v = block_of<T>(op.v, key_row, keys, kv_head * value_width);
      float scores[kPer][kPer], slopes[kPer][kPer];
      products(scores, kOfQueries ? q : k, kOfQueries ? k : q, width, shared, row, col);
      if constexpr (gradient != Gradient::dv)
        products(slopes, kOfQueries ? dy : v, kOfQueries ? v : dy, value_width, shared, row, col);
#pragma unroll
      for (int i = 0; i < kPer; ++i)
#pragma unroll
        for (int j = 0; j < kPer; ++j) {
          const Index query = kOfQueries ? tile.first + row + i : met + col + j;
          const Index key = kOfQueries ? met + col + j : tile.first + row + i;
          float weight = 0;
          if (query < (kOfQueries ? own_end : end) && key <= query &&
              key >= first_seen(op, span.position, query)) {
            const float lse = op.lse.row<float>(span.first + query)[head];
            weight = exp2f(scores[i][j] * scale - lse * static_cast<float>(kLog2e));
            if constexpr (gradient != Gradient::dv)
              weight *= slopes[i][j] - delta.row<float>(span.first + query)[head];
          }
          shared.weights[col + j][row + i] = weight;
        }
      const auto factor = kOfQueries ? k : gradient == Gradient::dk ? q : dy;
      float part[kPer][slice / 16] = {};
      for (int from = 0; from < kRows; from += kMet) {
        __syncthreads();
        for (int i = threadIdx.x; i < kMet * slice; i += kThreads) {
          const int r = i / slice, c = i % slice;
          shared.in.met[r][c] =
              from + r < factor.rows && c < slice_cols
                  ? to_float(factor.data[(from + r) * factor.stride + slice_col + c])
                  : 0.0f;
        }
        __syncthreads();
        multiply<kMet, slice / kRows>(part, shared.weights + from, shared.in.met, row, col);
      }
      add(sums, part);
    }
  const float factor = gradient == Gradient::dv ? 1.0f : static_cast<float>(op.scale);
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    if (row + i >= own_rows) continue;
    T* out = to.row<T>(own_row + row + i) + Index{blockIdx.y} * to_width + slice_col;
#pragma unroll
    for (int j = 0; j < slice / 16; ++j) {
      const int c = col + j / kPer * kRows + j % kPer;
      if (c < slice_cols) out[c] = from_float<T>(sums[i][j] * factor);
    }
  }
}

template <class T, Gradient gradient>
void differentiate_rows(CudaStream& stream, const op::AttentionBackward& op, ConstView delta,
                        std::span<const Tile> tiles) {
  const Tile* device_tiles = stream.resident(tiles);
  const Index heads = gradient == Gradient::dq ? op.heads.heads : op.heads.kv_heads;
  const Index width = gradient == Gradient::dv ? op.heads.value_width : op.heads.width;
  const auto with = [&]<int slice>() {
    const dim3 grid(static_cast<unsigned>(tiles.size()), static_cast<unsigned>(heads),
                    static_cast<unsigned>(ceil_div(width, Index{slice})));
    launch(stream, differentiate<T, gradient, slice>, grid, kThreads, 0, op, delta, device_tiles);
  };
  if (width <= 64)
    with.template operator()<64>();
  else
    with.template operator()<128>();
}

}  // namespace

Matrix dots(CudaStream& stream, const op::AttentionBackward& op) {
  Matrix delta(stream, DType::f32, op.dy.rows, op.heads.heads);
  const Index threads = delta.rows() * delta.cols() * 32;
  visit_float(op.dtype(), [&]<class T>() {
    launch(stream, dot<T>, static_cast<unsigned>(ceil_div(threads, Index{kThreads})), kThreads, 0,
           op, delta.view());
  });
  return delta;
}

void differentiate_generally(CudaStream& stream, const op::AttentionBackward& op,
                             std::span<const Span> spans) {
  std::vector<Tile> tiles;
  for (std::size_t i = 0; i < spans.size(); ++i)
    for (Index first = 0; first < spans[i].length; first += kRows)
      tiles.push_back({static_cast<Index>(i), first});
  const Matrix delta = dots(stream, op);
  visit_float(op.dtype(), [&]<class T>() {
    differentiate_rows<T, Gradient::dv>(stream, op, delta, tiles);
    differentiate_rows<T, Gradient::dk>(stream, op, delta, tiles);
    differentiate_rows<T, Gradient::dq>(stream, op, delta, tiles);
  });
}

}  // namespace samba::attention
