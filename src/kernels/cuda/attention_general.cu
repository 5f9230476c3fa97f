#include "kernels/cuda/attention_parts.cuh"
#include "kernels/cuda/vector.cuh"

// Attention of tiles of 64 queries of one head on CUDA cores, block by block of 64 keys: any width,
// any strides, f32 throughout. Dao et al. 2022, "FlashAttention", algorithm 1.
namespace samba::attention {
namespace {

constexpr int kRows = static_cast<int>(kGeneralRows);
constexpr int kKeys = 64;
constexpr int kThreads = 256;
constexpr int kPer = 4;      ///< rows and neighbouring columns of a product that a thread computes
constexpr int kDepth = 32;   ///< columns of queries and keys at a time
constexpr int kValues = 16;  ///< rows of values at a time
constexpr int kPitch = kRows + 4;

/// Rows of a block's keys and values; null where there is none that anybody sees.
template <class T>
struct Rows {
  const T* keys[kKeys];
  const T* values[kKeys];
};

template <class T, int slice>
struct Shared {
  union {
    struct {
      float queries[kDepth][kPitch];
      float keys[kDepth][kPitch];
    } scores;
    float values[kValues][slice + 4];
  } in;
  float weights[kKeys][kPitch];
  Rows<T> rows;
};

/// Sets the rows of the keys at `base` + 0 .. 63 of kv head `head`.
template <class T>
__device__ void find_rows(const op::Attention& op, const Span& span, Index base, Index begin,
                          Index end, Index head, Index value_col, Rows<T>& rows) {
  const int j = threadIdx.x;
  if (j >= kKeys) return;
  const Index p = base + j;
  rows.keys[j] = rows.values[j] = nullptr;
  if (p < begin || p >= end) return;
  const Index width = op.heads.width;
  if (p >= span.position) {
    const Index row = span.first + p - span.position;
    rows.keys[j] = op.k.row<T>(row) + head * width;
    rows.values[j] = op.v.row<T>(row) + value_col;
  } else {
    const Index row = p % capacity(op);
    rows.keys[j] = op.key_state.row<T>(span.slot) + row * op.k.cols + head * width;
    rows.values[j] = op.value_state.row<T>(span.slot) + row * op.v.cols + value_col;
  }
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

/// The 16 threads of one row are neighbouring lanes.
__device__ float row_max(float x) {
#pragma unroll
  for (int lane = 8; lane > 0; lane /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lane));
  return x;
}
__device__ float row_sum(float x) {
#pragma unroll
  for (int lane = 8; lane > 0; lane /= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
  return x;
}

/// `slice` columns of values at a time, from blockIdx.z on; blockIdx.y is the head.
template <class T, int slice>
__global__ void __launch_bounds__(kThreads, 2) attend(const op::Attention op, const Tile* tiles) {
  constexpr int kParts = slice / kRows;
  __shared__ Shared<T, slice> shared;
  const Tile tile = tiles[blockIdx.x];
  const Span span = op.batch.spans[tile.span];
  const Index head = blockIdx.y, kv_head = head / (op.heads.heads / op.heads.kv_heads);
  const Index width = op.heads.width, value_width = op.heads.value_width;
  const Index value_col = Index{blockIdx.z} * slice, there = first_there(op, span);
  const int rows = static_cast<int>(min(Index{kRows}, span.length - tile.first));
  const int values = static_cast<int>(min(Index{slice}, value_width - value_col));
  const Index position = span.position + tile.first;
  const int row = threadIdx.x / 16 * kPer, col = threadIdx.x % 16 * kPer;
  const float scale = static_cast<float>(op.scale * kLog2e);
  const T* queries = op.q.row<T>(span.first + tile.first) + head * width;

  Index first[kPer];
  float largest[kPer], total[kPer] = {}, sums[kPer][slice / 16] = {};
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    first[i] = max(there, first_key(op, position + min(row + i, rows - 1)));
    largest[i] = kNothing;
  }
  const Index begin = max(there, first_key(op, position)), end = position + rows;
  for (Index base = begin / kKeys * kKeys; base < end; base += kKeys) {
    __syncthreads();
    find_rows(op, span, base, begin, end, kv_head, kv_head * value_width + value_col, shared.rows);
    float scores[kPer][kPer] = {};
    for (Index d = 0; d < width; d += kDepth) {
      __syncthreads();
      for (int i = threadIdx.x; i < kRows * kDepth; i += kThreads) {
        const int r = i / kDepth, c = i % kDepth;
        const T* key = shared.rows.keys[r];
        const bool inside = d + c < width;
        shared.in.scores.queries[c][r] =
            inside && r < rows ? to_float(queries[r * op.q.stride + d + c]) : 0.0f;
        shared.in.scores.keys[c][r] = inside && key != nullptr ? to_float(key[d + c]) : 0.0f;
      }
      __syncthreads();
      multiply<kDepth, 1>(scores, shared.in.scores.queries, shared.in.scores.keys, row, col);
    }
    float factor[kPer];
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      float most = kNothing;
      bool seen[kPer];
#pragma unroll
      for (int j = 0; j < kPer; ++j) {
        const Index p = base + col + j;
        seen[j] = p >= first[i] && p <= position + row + i && row + i < rows;
        if (seen[j]) most = fmaxf(most, scores[i][j]);
      }
      most = fmaxf(largest[i], row_max(most));
      factor[i] = exp2f((largest[i] - most) * scale);
      largest[i] = most;
      float sum = 0;
#pragma unroll
      for (int j = 0; j < kPer; ++j) {
        scores[i][j] = seen[j] ? exp2f((scores[i][j] - most) * scale) : 0.0f;
        sum += scores[i][j];
      }
      total[i] = total[i] * factor[i] + row_sum(sum);
#pragma unroll
      for (int j = 0; j < slice / 16; ++j) sums[i][j] *= factor[i];
#pragma unroll
      for (int j = 0; j < kPer; ++j) shared.weights[col + j][row + i] = scores[i][j];
    }
    for (int k = 0; k < kKeys; k += kValues) {
      __syncthreads();
      for (int i = threadIdx.x; i < kValues * slice; i += kThreads) {
        const int r = i / slice, c = i % slice;
        const T* value = shared.rows.values[k + r];
        shared.in.values[r][c] = value != nullptr && c < values ? to_float(value[c]) : 0.0f;
      }
      __syncthreads();
      multiply<kValues, kParts>(sums, shared.weights + k, shared.in.values, row, col);
    }
  }
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    if (row + i >= rows) continue;
    const Index to = span.first + tile.first + row + i;
    T* y = op.y.row<T>(to) + head * value_width + value_col;
#pragma unroll
    for (int j = 0; j < slice / 16; ++j) {
      const int c = col + j / kPer * kRows + j % kPer;
      if (c < values) y[c] = from_float<T>(sums[i][j] / total[i]);
    }
    if (!op.lse.empty() && value_col == 0 && col == 0)
      op.lse.row<float>(to)[head] = (largest[i] * scale + log2f(total[i])) * kLn2;
  }
}

}  // namespace

void attend_generally(CudaStream& stream, const op::Attention& op, std::span<const Tile> tiles) {
  const Tile* device_tiles = stream.resident(tiles);
  visit_float(op.dtype(), [&]<class T>() {
    const auto with = [&]<int slice>() {
      const dim3 grid(static_cast<unsigned>(tiles.size()), static_cast<unsigned>(op.heads.heads),
                      static_cast<unsigned>(ceil_div(op.heads.value_width, Index{slice})));
      launch(stream, attend<T, slice>, grid, kThreads, 0, op, device_tiles);
    };
    if (op.heads.value_width <= 64)
      with.template operator()<64>();
    else
      with.template operator()<128>();
  });
}

}  // namespace samba::attention
