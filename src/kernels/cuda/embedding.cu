#include <utility>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vector.cuh"
#include "kernels/embedding.h"

namespace samba {
namespace {

constexpr int kThreads = 256;

/// A thread takes n neighbouring columns of one row.
template <class T, int n>
__global__ void embedding(const op::Embedding op) {
  let_next_begin();
  const auto [row, col] = place_of<n>(Index{blockIdx.x} * kThreads + threadIdx.x, op.y.cols);
  if (row >= op.y.rows) return;
  const Index token = *op.tokens.row<std::int32_t>(row);
  float w[n];
  if (token >= 0 && token < op.w.rows) {
    load<n>(w, op.w.row<T>(token) + col);
  } else {
#pragma unroll
    for (int i = 0; i < n; ++i) w[i] = __int_as_float(0x7fffffff);
  }
  store<n>(op.y.row<float>(row) + col, w);
}

// Backward sorts the tokens by id, those of one id in their order, by one digit after the other
// (least significant first; each pass keeps the order of equal digits). A block of every pass has a
// tile of tokens, one a thread.

constexpr int kTile = 1024, kTileWarps = kTile / 32, kDigitBits = 8, kDigits = 1 << kDigitBits;

/// Tokens in the order of a pass: their ids, the number of rows for those that are none, and rows.
struct Sorted {
  unsigned* ids;
  unsigned* rows;
};

__global__ void list_tokens(ConstView tokens, unsigned vocabulary, const Sorted to) {
  const Index n = Index{blockIdx.x} * kTile + threadIdx.x;
  if (n >= tokens.rows) return;
  to.ids[n] = min(static_cast<unsigned>(*tokens.row<std::int32_t>(n)), vocabulary);
  to.rows[n] = static_cast<unsigned>(n);
}

/// counts[digit][tile]
__global__ void count_digits(const Sorted from, Index count, int shift, unsigned* counts) {
  __shared__ unsigned mine[kDigits];
  if (threadIdx.x < kDigits) mine[threadIdx.x] = 0;
  __syncthreads();
  const Index n = Index{blockIdx.x} * kTile + threadIdx.x;
  if (n < count) atomicAdd(&mine[from.ids[n] >> shift & (kDigits - 1)], 1u);
  __syncthreads();
  if (threadIdx.x < kDigits)
    counts[Index{threadIdx.x} * gridDim.x + blockIdx.x] = mine[threadIdx.x];
}

/// Replaces counts by the sums of those before them. One block.
__global__ void sum_counts(unsigned* counts, Index count) {
  __shared__ unsigned totals[kTile];
  const Index share = ceil_div(count, Index{kTile});
  const Index first = min(count, threadIdx.x * share), end = min(count, first + share);
  unsigned total = 0;
  for (Index i = first; i < end; ++i) total += counts[i];
  totals[threadIdx.x] = total;
  for (unsigned step = 1; step < kTile; step *= 2) {
    __syncthreads();
    const unsigned before = threadIdx.x >= step ? totals[threadIdx.x - step] : 0;
    __syncthreads();
    totals[threadIdx.x] += before;
  }
  unsigned sum = totals[threadIdx.x] - total;
  for (Index i = first; i < end; ++i) {
    const unsigned here = counts[i];
    counts[i] = sum;
    sum += here;
  }
}

__global__ void move_tokens(const Sorted from, Index count, int shift, const unsigned* starts,
                            const Sorted to) {
  __shared__ unsigned counts[kTileWarps][kDigits];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  for (int i = static_cast<int>(threadIdx.x); i < kTileWarps * kDigits; i += kTile)
    counts[i / kDigits][i % kDigits] = 0;
  __syncthreads();
  const Index n = Index{blockIdx.x} * kTile + threadIdx.x;
  const unsigned id = n < count ? from.ids[n] : 0;
  const unsigned digit = n < count ? id >> shift & (kDigits - 1) : kDigits;
  const unsigned equal = __match_any_sync(0xffffffffu, digit);
  const int rank = __popc(equal & ((1u << lane) - 1));
  if (rank == 0 && n < count) counts[warp][digit] = static_cast<unsigned>(__popc(equal));
  __syncthreads();
  if (threadIdx.x < kDigits) {
    unsigned sum = starts[Index{threadIdx.x} * gridDim.x + blockIdx.x];
    for (int w = 0; w < kTileWarps; ++w) {
      const unsigned here = counts[w][threadIdx.x];
      counts[w][threadIdx.x] = sum;
      sum += here;
    }
  }
  __syncthreads();
  if (n >= count) return;
  const unsigned place = counts[warp][digit] + static_cast<unsigned>(rank);
  to.ids[place] = id;
  to.rows[place] = from.rows[n];
}

// What an id's tokens add is one sum in their order. Ids of more than kFew tokens have a kernel of
// their own, in which a thread has one column and many rows on their way.

constexpr int kSumThreads = 128;
constexpr Index kFew = 16;

/// Whether the tokens from `first` on, the first of its id, are more than kFew.
__device__ inline bool many_from(const Sorted& sorted, Index count, Index first) {
  return first + kFew < count && sorted.ids[first + kFew] == sorted.ids[first];
}

/// A block takes the ids whose first tokens are among kShare neighbours.
constexpr Index kShare = 8;

template <int n>
__global__ void __launch_bounds__(kSumThreads)
    add_few(const op::EmbeddingBackward op, const Sorted sorted) {
  constexpr int kTogether = 4;
  const Index count = op.dy.rows, begin = blockIdx.x * kShare, end = min(count, begin + kShare);
  const Index col = (Index{blockIdx.y} * kSumThreads + threadIdx.x) * n;
  if (col >= op.dw.cols) return;
  for (Index first = begin; first < end; ++first) {
    const unsigned id = sorted.ids[first];
    if (id >= op.dw.rows || (first > 0 && sorted.ids[first - 1] == id)) continue;
    if (many_from(sorted, count, first)) continue;
    float sum[n];
    load<n>(sum, op.dw.row<float>(id) + col);
    for (Index i = first; i < count && sorted.ids[i] == id; i += kTogether) {
      float dy[kTogether][n];
#pragma unroll
      for (int k = 0; k < kTogether; ++k)
        if (i + k < count && sorted.ids[i + k] == id)
          load<n>(dy[k], op.dy.row<float>(sorted.rows[i + k]) + col);
#pragma unroll
      for (int k = 0; k < kTogether; ++k)
        if (i + k < count && sorted.ids[i + k] == id)
#pragma unroll
          for (int j = 0; j < n; ++j) sum[j] += dy[k][j];
    }
    store<n>(op.dw.row<float>(id) + col, sum);
  }
}

/// Blocks stand at every kFew-th token; the first of those that an id has takes it.
__global__ void __launch_bounds__(kSumThreads)
    add_many(const op::EmbeddingBackward op, const Sorted sorted) {
  const Index count = op.dy.rows, here = blockIdx.x * kFew;
  const Index col = Index{blockIdx.y} * kSumThreads + threadIdx.x;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const unsigned id = sorted.ids[here];
  if (id >= op.dw.rows || (here >= kFew && sorted.ids[here - kFew] == id)) return;
  Index first = here;
  while (first > 0 && sorted.ids[first - 1] == id) --first;
  if (!many_from(sorted, count, first)) return;
  // Lanes without a column help with the numbers of rows.
  const bool inside = col < op.dw.cols;
  const Index at = inside ? col : 0;
  float sum = op.dw.row<float>(id)[at];
  const auto mine_at = [&](Index i) {
    const Index place = min(i + lane, count - 1);
    const unsigned row = sorted.rows[place];
    return i + lane < count && sorted.ids[place] == id ? row : ~0u;
  };
  const unsigned first_row = sorted.rows[first];
  unsigned mine = mine_at(first);
  for (Index i = first; __any_sync(0xffffffffu, mine != ~0u); i += 32) {
    const unsigned following = mine_at(i + 32);
    // Behind the last row the first is loaded: loads that hang on no condition start together.
    float dy[32];
#pragma unroll
    for (int k = 0; k < 32; ++k) {
      const unsigned row = __shfl_sync(0xffffffffu, mine, k);
      dy[k] = op.dy.row<float>(row != ~0u ? row : first_row)[at];
    }
    const int rows = __popc(__ballot_sync(0xffffffffu, mine != ~0u));
#pragma unroll
    for (int k = 0; k < 32; ++k)
      if (k < rows) sum += dy[k];
    mine = following;
  }
  if (inside) op.dw.row<float>(id)[col] = sum;
}

}  // namespace

/// Launched in the ordinary way: what came before a pass has ended when it begins (launch.cuh).
void run_on(CudaStream& stream, const op::Embedding& op) {
  const auto blocks = [&](int n) {
    return static_cast<unsigned>(ceil_div(op.y.rows * op.y.cols, Index{kThreads} * n));
  };
  visit_float(op.dtype(), [&]<class T>() {
    if (aligned(4, op.y, op.w))
      launch(stream, embedding<T, 4>, blocks(4), kThreads, 0, op);
    else
      launch(stream, embedding<T, 1>, blocks(1), kThreads, 0, op);
  });
}

void run_on(CudaStream& stream, const op::EmbeddingBackward& op) {
  const Index count = op.dy.rows;
  if (count == 0 || op.dw.cols == 0) return;
  const auto tiles = static_cast<unsigned>(ceil_div(count, Index{kTile}));
  const auto vocabulary = static_cast<unsigned>(op.dw.rows);
  const Matrix memory(stream, DType::i32, 4, count);
  const Matrix counts(stream, DType::i32, kDigits, tiles);
  const auto words = [](const Matrix& m, Index row) {
    return reinterpret_cast<unsigned*>(m.row<std::int32_t>(row));
  };
  Sorted from{words(memory, 0), words(memory, 1)}, to{words(memory, 2), words(memory, 3)};
  launch(stream, list_tokens, tiles, kTile, 0, op.tokens, vocabulary, from);
  for (int shift = 0; shift < 32 && vocabulary >> shift != 0; shift += kDigitBits) {
    launch(stream, count_digits, tiles, kTile, 0, from, count, shift, words(counts, 0));
    launch(stream, sum_counts, 1, kTile, 0, words(counts, 0), Index{kDigits} * tiles);
    launch(stream, move_tokens, tiles, kTile, 0, from, count, shift, words(counts, 0), to);
    std::swap(from, to);
  }
  const auto strips = [&](int n) {
    return static_cast<unsigned>(ceil_div(op.dw.cols, Index{kSumThreads} * n));
  };
  const bool whole = aligned(4, op.dw, op.dy);
  launch(stream, add_many, dim3(static_cast<unsigned>(ceil_div(count, kFew)), strips(1)),
         kSumThreads, 0, op, from);
  launch(stream, whole ? add_few<4> : add_few<1>,
         dim3(static_cast<unsigned>(ceil_div(count, kShare)), strips(whole ? 4 : 1)), kSumThreads,
         0, op, from);
}

}  // namespace samba
