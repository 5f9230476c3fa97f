#pragma once

#include "kernels/cuda/linear_attention_steps.cuh"
#include "kernels/cuda/mma.cuh"

// Linear attention of bf16 in chunks of tokens, as products on tensor cores. With G_t the sum of
// the logarithms of the decays from the chunk's first token to t, q' = scale q 2^G and k' = k 2^-G,
// and S the state before the chunk, D its gradient behind it:
//
//   y  = (q' k'^T, lower) v + q' S             S <- 2^G_end (S + k'^T v)
//   dv = (q' k'^T, lower)^T dy + k' 2^G_end D  D <- 2^G_end D + q'^T dy
//   dq = scale 2^G [(dy v^T, lower) k' + dy S^T]
//   dk = 2^-G [(dy v^T, lower)^T q' + v 2^G_end D^T]
//
// Three kernels: one makes q' and k' of all chunks, one both matrices of scores, and `sweep`
// carries S or D along a sequence. It is one kernel for the four walks of
// linear_attention_steps.cuh:
//
//   result = scores value + query S            S <- S + key^T value
//
// Chunks are tiles of 64 tokens from a sequence's start on. Where decays are so strong that 2^-G
// would grow too large, a tile is cut into several chunks, whose first tokens are bits of a mask.
// Since the four walks use the same rounded factors, what pairs of tokens add to q' dq' and to k'
// dk' cancels in the gradient of a gate to below the rounding of f32 sums.

namespace samba {
namespace {

constexpr int kTile = 64;
/// log2 of the strongest decay of a chunk.
constexpr float kLeastProduct = -60;
/// Shorter spans are worked through token by token.
constexpr Index kShort = 8;
constexpr Index kMostKeys = 256, kMostValues = 512;

using Mask = unsigned long long;

/// Tiles of all spans are numbered with gaps, so that a number needs the span's first row alone.
__host__ __device__ inline Index first_tile(const Span& span, Index index) {
  return span.first / kTile + index;
}
inline Index count_tiles(const Batch& batch) {
  return batch.tokens / kTile + batch.count;
}

/// Rows of a tile; none for numbers that no span has.
struct Tile {
  Index row, count;
};
__device__ inline Tile tile_of(const Batch& batch, Index number) {
  Index low = 0, high = batch.count;
  while (high - low > 1) {
    const Index middle = (low + high) / 2;
    (first_tile(batch.spans[middle], middle) <= number ? low : high) = middle;
  }
  const Span span = batch.spans[low];
  const Index begin = (number - first_tile(span, low)) * kTile;
  return {span.first + begin, max(Index{0}, min(Index{kTile}, span.length - begin))};
}

/// What the walks share: matrices in scratch memory. Heads are `width` columns wide, K filled up to
/// a multiple of kTile with zeros.
struct Chunks {
  Index width;
  View query;   ///< [N, H * width] bf16: q'
  View key;     ///< [N, H * width] bf16: k'
  View sums;    ///< [N, H * width] f32: G; only the last rows of chunks unless gradients are wanted
  Mask* masks;  ///< [tiles, H]
};

struct Prepare {
  ConstView q, k, gate;
  Index heads;
  float scale;
  Batch batch;
  Chunks to;
  bool all_sums;
};

/// Tokens that a thread of `prepare_chunks` takes, and parts that a tile falls into.
constexpr int kPart = 16, kParts = kTile / kPart;

/// A block prepares one tile of one head, a thread of it two channels of kPart tokens. With `whole`
/// rows of q, k and gate hold them in pairs.
template <bool whole>
__global__ void __launch_bounds__(kMostKeys / 2 * kParts) prepare_chunks(const Prepare p) {
  __shared__ alignas(16) float totals[kParts][kMostKeys];
  const Tile tile = tile_of(p.batch, blockIdx.x);
  if (tile.count == 0) return;
  const int pairs = static_cast<int>(p.to.width) / 2, thread = static_cast<int>(threadIdx.x);
  const int part = thread / pairs, channel = thread % pairs * 2;
  const Index head = blockIdx.y, keys = p.q.cols / p.heads;
  const Index from = head * keys + channel, to = head * p.to.width + channel;
  const int first = part * kPart, count = static_cast<int>(tile.count);
  const Index left = keys - channel;
  const auto load_pair = [&](float (&x)[2], ConstView view, int t) {
    if (left > 0)
      load_run<whole>(x, view.row<Bf16>(tile.row + t) + from, left);
    else
      x[0] = x[1] = 0;
  };
  const auto store_sums = [&](int t, const float (&sums)[2]) {
    store<2>(p.to.sums.row<float>(tile.row + t) + to, sums);
  };

  // The logarithms of the decays, then their sums. Behind a short tile's last token its own are
  // loaded again: loads that hang on no condition are all on their way at once.
  float sums[kPart][2];
  const float constant = retention(head);
  if (!p.gate.empty()) {
#pragma unroll
    for (int j = 0; j < kPart; ++j) load_pair(sums[j], p.gate, min(first + j, count - 1));
  }
#pragma unroll
  for (int j = 0; j < kPart; ++j)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float step = p.gate.empty() ? constant : gated_decay<Bf16>(sums[j][i]);
      sums[j][i] = first + j < count && i < left ? step : 0;
    }
  float total[2] = {};
#pragma unroll
  for (int j = 0; j < kPart; ++j) {
    total[0] += sums[j][0];
    total[1] += sums[j][1];
  }
  store<2>(&totals[part][channel], total);
  __syncthreads();
  float sum[2] = {}, least[2] = {};
#pragma unroll
  for (int other = 0; other < kParts; ++other)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float here = totals[other][channel + i];
      if (other < part) sum[i] += here;
      least[i] += here;
    }
  Mask mask = 1;
  if (!__syncthreads_or(fminf(least[0], least[1]) < kLeastProduct)) {
#pragma unroll
    for (int j = 0; j < kPart; ++j)
#pragma unroll
      for (int i = 0; i < 2; ++i) sums[j][i] = sum[i] += sums[j][i];
  } else {
    // Rare: token by token, all threads vote whether a chunk begins.
    for (int turn = 0; turn < kParts; ++turn) {
      const bool mine = turn == part;
      if (mine) {
        sum[0] = turn > 0 ? totals[0][channel] : 0;
        sum[1] = turn > 0 ? totals[0][channel + 1] : 0;
      }
#pragma unroll
      for (int j = 0; j < kPart; ++j) {
        const int t = turn * kPart + j;
        const bool beyond = mine && t > 0 && t < count &&
                            fminf(sum[0] + sums[j][0], sum[1] + sums[j][1]) < kLeastProduct;
        const bool begins = __syncthreads_or(beyond);
        if (begins) mask |= Mask{1} << t;
        if (begins && mine) {
          store_sums(t - 1, sum);
          sum[0] = sum[1] = 0;
        }
        if (mine) {
          sums[j][0] = sum[0] += sums[j][0];
          sums[j][1] = sum[1] += sums[j][1];
        }
      }
      if (mine) store<2>(&totals[0][channel], sum);
      __syncthreads();
    }
  }
  constexpr int kTogether = 8;
#pragma unroll
  for (int begin = 0; begin < kPart; begin += kTogether) {
    float q[kTogether][2], k[kTogether][2];
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      const int t = min(first + begin + j, count - 1);
      load_pair(q[j], p.q, t);
      load_pair(k[j], p.k, t);
    }
#pragma unroll
    for (int j = 0; j < kTogether; ++j) {
      const int t = first + begin + j;
      const float (&here)[2] = sums[begin + j];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        q[j][i] *= p.scale * exp2f(here[i]);
        k[j][i] *= exp2f(-here[i]);
      }
      if (t >= count) continue;
      store<2>(p.to.query.row<Bf16>(tile.row + t) + to, q[j]);
      store<2>(p.to.key.row<Bf16>(tile.row + t) + to, k[j]);
      if (p.all_sums || t + 1 == count) store_sums(t, here);
    }
  }
  if (thread == 0) p.to.masks[Index{blockIdx.x} * p.heads + head] = mask;
}

/// Copies columns first .. first + columns - 1 of the rows begin .. end - 1 of a tile into shared
/// memory, and zeros for the other rows and for columns from `valid` on. Neighbouring threads share
/// a row, so that a thread makes few addresses.
template <int columns, int stride, int threads>
__device__ inline void copy_tile(Bf16* to, ConstView from, Index row, int begin, int end,
                                 Index first, Index valid) {
  constexpr int kSharing = columns >= 64 ? 8 : columns / 8;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kSharing * 8;
  const int left = static_cast<int>(valid) - lane;
#pragma unroll
  for (int r = thread / kSharing; r < kTile; r += threads / kSharing) {
    const bool inside = r >= begin && r < end;
    const Bf16* source = from.row<Bf16>(row + (inside ? r : begin)) + first + lane;
#pragma unroll
    for (int c = 0; c < columns; c += kSharing * 8)
      copy_async(to + r * stride + lane + c, source + c, inside && c < left);
  }
}

constexpr int kScoreThreads = 256;

struct Scores {
  ConstView query, key;
  Index valid;  ///< columns of a head
  Index heads;
  Batch batch;
  const Mask* masks;
  Bf16* to;  ///< [tiles, H, kTile, kTile]
};

/// One tile of one head: the products of queries with the keys up to them in their chunk.
__global__ void __launch_bounds__(kScoreThreads) score_chunks(const Scores p) {
  constexpr int kStride = kTile + 8;
  __shared__ alignas(16) Bf16 query[2][kTile * kStride], key[2][kTile * kStride];
  const Tile tile = tile_of(p.batch, blockIdx.x);
  if (tile.count == 0) return;
  const Index head = blockIdx.y, number = Index{blockIdx.x} * p.heads + head;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int row = warp % 4 * 16, col = warp / 4 * 32, rows = static_cast<int>(tile.count);
  const auto copy = [&](int buffer, Index first) {
    if (first < p.valid) {
      copy_tile<kTile, kStride, kScoreThreads>(query[buffer], p.query, tile.row, 0, rows,
                                               head * p.valid + first, p.valid - first);
      copy_tile<kTile, kStride, kScoreThreads>(key[buffer], p.key, tile.row, 0, rows,
                                               head * p.valid + first, p.valid - first);
    }
    copy_async_commit();
  };
  float d[4][4] = {};
  copy(0, 0);
  int buffer = 0;
  for (Index first = 0; first < p.valid; first += kTile, buffer ^= 1) {
    copy(buffer ^ 1, first + kTile);
    copy_async_wait<1>();
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kTile; k += 16) {
      std::uint32_t a[4], b[2][4];
      load_blocks(a, &query[buffer][(row + lane % 16) * kStride + k + lane / 16 * 8]);
#pragma unroll
      for (int n = 0; n < 2; ++n)
        load_blocks(b[n], &key[buffer][(col + n * 16 + lane / 16 * 8 + lane % 8) * kStride + k +
                                       lane / 8 % 2 * 8]);
#pragma unroll
      for (int n = 0; n < 4; ++n)
        multiply_add(d[n], a, b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
    }
    __syncthreads();
  }
  const Mask mask = p.masks[number];
  Bf16* to = p.to + number * (kTile * kTile);
#pragma unroll
  for (int n = 0; n < 4; ++n)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int i = row + lane / 4 + half * 8, j = col + n * 8 + lane % 4 * 2;
      // No chunk begins behind j and up to i.
      const auto joined = [&](int first) {
        return first <= i && i < rows && (mask & ((Mask{2} << i) - (Mask{2} << first))) == 0;
      };
      *reinterpret_cast<std::uint32_t*>(to + i * kTile + j) =
          pack_bf16(joined(j) ? d[n][half * 2] : 0, joined(j + 1) ? d[n][half * 2 + 1] : 0);
    }
}

struct Sweep {
  ConstView query, key, value;  ///< heads of `valid` columns, and of value_valid
  Index valid, value_valid;
  Chunks chunks;
  const Bf16* scores;
  View result;  ///< heads of result_valid columns
  Index result_valid;
  Index heads;
  float scale;
  Batch batch;
  View state = {};
  Index state_rows = 0;  ///< K
  View pairs = {};       ///< as in Recurrence, heads of chunks.width columns
  ConstView own = {};    ///< q' beside dq, k' beside dk
};

/// The chunks of a span one after the other, from either end.
template <bool reverse>
class Walk {
 public:
  __device__ Walk(const Span& span, const Mask* masks, Index heads)
      : span_(span), masks_(masks), heads_(heads), tiles_(ceil_div(span.length, Index{kTile})) {
    tile_ = reverse ? tiles_ - 1 : 0;
    enter(mask_at(tile_));
    following_ = mask_at(tile_ + kStep);
  }
  __device__ bool done() const { return tile_ < 0 || tile_ >= tiles_; }
  __device__ Index tile() const { return tile_; }
  __device__ Index row() const { return span_.first + tile_ * kTile; }
  __device__ int begin() const { return begin_; }
  __device__ int end() const { return end_; }
  __device__ void advance() {
    if (reverse && begin_ > 0) {
      end_ = begin_;
      begin_ = last_before(end_);
    } else if (!reverse && end_ < count()) {
      begin_ = end_;
      end_ = next(begin_);
    } else {
      tile_ += kStep;
      enter(following_);
      following_ = mask_at(tile_ + kStep);
    }
  }

 private:
  static constexpr Index kStep = reverse ? -1 : 1;

  __device__ int count() const {
    return static_cast<int>(min(Index{kTile}, span_.length - tile_ * kTile));
  }
  __device__ Mask mask_at(Index tile) const {
    return tile >= 0 && tile < tiles_ ? masks_[tile * heads_] : 1;
  }
  /// The first token behind `token` that begins a chunk, or the tile's end.
  __device__ int next(int token) const {
    const Mask later = token < 63 ? mask_ >> (token + 1) : 0;
    return later == 0 ? count() : token + __ffsll(static_cast<long long>(later));
  }
  /// The last token before `token`, which is not 0, that begins a chunk.
  __device__ int last_before(int token) const {
    return 63 - __clzll(static_cast<long long>(mask_ & (~Mask{0} >> (kTile - token))));
  }
  __device__ void enter(Mask mask) {
    mask_ = mask;
    begin_ = reverse ? last_before(kTile) : 0;
    end_ = reverse ? count() : next(0);
  }

  const Span& span_;
  const Mask* masks_;
  Index heads_, tiles_, tile_;
  Mask mask_, following_;
  int begin_, end_;
};

/// How a block of `sweep` is made: S has kTile * row_tiles rows, of which it takes `cols` columns,
/// shared by 4 x col_warps warps, and enters products as the sum of so many numbers of bf16.
template <int row_tiles_, int cols_, int col_warps_, int parts_, bool reverse_, bool columns_>
struct Form {
  static constexpr int row_tiles = row_tiles_, cols = cols_, col_warps = col_warps_;
  static constexpr int parts = parts_;
  static constexpr bool reverse = reverse_, columns = columns_;
  static constexpr int rows = kTile * row_tiles, threads = 128 * col_warps;
  static constexpr int stride = rows + 8, col_stride = cols + 8, score_stride = kTile + 8;

  struct Memory {
    alignas(16) Bf16 query[kTile * stride];
    alignas(16) Bf16 key[kTile * stride];
    alignas(16) Bf16 value[kTile * col_stride];
    alignas(16) Bf16 scores[kTile * score_stride];
    alignas(16) Bf16 state[parts][rows * col_stride];
    alignas(16) float ends[columns ? cols : rows];  ///< log2 of the decays of the whole chunk
  };
  /// Blocks that a multiprocessor's shared memory is to hold.
  static constexpr int blocks = sizeof(Memory) <= (113 << 10) ? 2 : 1;
};

/// A block takes one span, one head, and some columns of S, which its warps keep in their
/// accumulators. Queries of the next chunk arrive during this one's other products, the rest of it
/// during the product of its queries.
template <class F>
__global__ void __launch_bounds__(F::threads, F::blocks) sweep(const Sweep p) {
  constexpr bool reverse = F::reverse, columns = F::columns;
  constexpr int row_tiles = F::row_tiles, cols = F::cols, kRows = F::rows, kStride = F::stride,
                kColStride = F::col_stride, kScoreStride = F::score_stride;
  constexpr int kMine = cols / F::col_warps, kColTiles = kMine / 8;  // of a warp
  extern __shared__ float4 memory[];
  auto& shared = *reinterpret_cast<typename F::Memory*>(memory);

  const Index index = blockIdx.x, head = blockIdx.y, first_col = Index{blockIdx.z} * cols;
  const Span span = p.batch.spans[index];
  if (span.length < kShort) return;
  const Index first_number = first_tile(span, index);
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int row = warp % 4 * 16, state_row = row * row_tiles, col = warp / 4 * kMine;

  float s[row_tiles][kColTiles][4] = {};
  float* slot = nullptr;
  if constexpr (!columns && !reverse)
    if (!p.state.empty() && span.slot >= 0)
      slot = p.state.row<float>(span.slot) + head * p.state_rows * p.result_valid + first_col;
  // Calls f(element of s, where it lies in the slot) for all that exist.
  const auto visit_state = [&](const auto& f) {
#pragma unroll
    for (int i = 0; i < row_tiles; ++i)
#pragma unroll
      for (int n = 0; n < kColTiles; ++n)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int r = state_row + i * 16 + lane / 4 + j / 2 * 8;
          const int c = col + n * 8 + lane % 4 * 2 + j % 2;
          if (r < p.state_rows && first_col + c < p.result_valid)
            f(s[i][n][j], slot + r * p.result_valid + c);
        }
  };
  if (slot != nullptr && span.position > 0)
    visit_state([](float& x, const float* from) { x = *from; });

  const auto decay_state = [&] {
#pragma unroll
    for (int i = 0; i < row_tiles; ++i) {
      const int r = state_row + i * 16 + lane / 4;
      const float above = columns ? 0 : exp2f(shared.ends[r]);
      const float below = columns ? 0 : exp2f(shared.ends[r + 8]);
#pragma unroll
      for (int n = 0; n < kColTiles; ++n) {
        const int c = col + n * 8 + lane % 4 * 2;
        const float left = columns ? exp2f(shared.ends[c]) : 0;
        const float right = columns ? exp2f(shared.ends[c + 1]) : 0;
        s[i][n][0] *= columns ? left : above;
        s[i][n][1] *= columns ? right : above;
        s[i][n][2] *= columns ? left : below;
        s[i][n][3] *= columns ? right : below;
      }
    }
  };

  Walk<reverse> now(span, p.chunks.masks + first_number * p.heads + head, p.heads);
  const auto copy_ends = [&] {
    constexpr int kPieces = static_cast<int>(sizeof(shared.ends) / 16);
    const float* from = p.chunks.sums.row<float>(now.row() + now.end() - 1) +
                        head * p.chunks.width + (columns ? first_col : 0);
    const int i = static_cast<int>(threadIdx.x);
    if (i < kPieces) copy_async(shared.ends + i * 4, from + i * 4, true);
  };
  const auto copy_query = [&] {
    copy_tile<kRows, kStride, F::threads>(shared.query, p.query, now.row(), now.begin(), now.end(),
                                          head * p.valid, p.valid);
    if constexpr (reverse) copy_ends();
  };
  const auto copy_rest = [&] {
    copy_tile<kRows, kStride, F::threads>(shared.key, p.key, now.row(), now.begin(), now.end(),
                                          head * p.valid, p.valid);
    copy_tile<cols, kColStride, F::threads>(shared.value, p.value, now.row(), now.begin(),
                                            now.end(), head * p.value_valid + first_col,
                                            p.value_valid - first_col);
    const Bf16* scores =
        p.scores + ((first_number + now.tile()) * p.heads + head) * (kTile * kTile);
    for (int i = static_cast<int>(threadIdx.x); i < kTile * kTile / 8; i += F::threads)
      copy_async(shared.scores + i / 8 * kScoreStride + i % 8 * 8, scores + i * 8, true);
    if constexpr (!reverse) copy_ends();
  };

  copy_query();
  copy_async_commit();
  copy_rest();
  copy_async_commit();
  for (bool more = true; more;) {
    const Index first_row = now.row();
    const int begin = now.begin(), end = now.end();
    if constexpr (reverse) {
      copy_async_wait<1>();
      __syncthreads();
      decay_state();
    }
#pragma unroll
    for (int i = 0; i < row_tiles; ++i)
#pragma unroll
      for (int n = 0; n < kColTiles; ++n)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int at =
              (state_row + i * 16 + lane / 4 + half * 8) * kColStride + col + n * 8 + lane % 4 * 2;
          float left = s[i][n][half * 2], right = s[i][n][half * 2 + 1];
#pragma unroll
          for (int part = 0; part < F::parts; ++part) {
            const std::uint32_t pair = pack_bf16(left, right);
            *reinterpret_cast<std::uint32_t*>(&shared.state[part][at]) = pair;
            left -= __uint_as_float(pair << 16);
            right -= __uint_as_float(pair & 0xffff0000u);
          }
        }
    copy_async_wait<1>();
    __syncthreads();

    float result[kColTiles][4] = {};
    // result += a b, a the fragment of 16 columns of the left factor, b 16 rows of the right one.
    const auto multiply = [&](float (&d)[kColTiles][4], const std::uint32_t (&a)[4],
                              const Bf16* b) {
#pragma unroll
      for (int n = 0; n < kColTiles; n += 2) {
        std::uint32_t pair[4];
        load_blocks_transposed(pair, b + lane % 16 * kColStride + col + n * 8 + lane / 16 * 8);
        multiply_add(d[n], a, pair[0], pair[1]);
        multiply_add(d[n + 1], a, pair[2], pair[3]);
      }
    };
#pragma unroll 4
    for (int k = 0; k < kRows; k += 16) {
      std::uint32_t a[4];
      load_blocks(a, &shared.query[(row + lane % 16) * kStride + k + lane / 16 * 8]);
#pragma unroll
      for (int part = 0; part < F::parts; ++part)
        multiply(result, a, &shared.state[part][k * kColStride]);
    }
    copy_async_wait<0>();
    __syncthreads();
    now.advance();
    more = !now.done();
    if (more) copy_query();
    copy_async_commit();

    // Rows of a transposed factor are columns of what lies in memory.
    const int across = lane / 16 * 8 + lane % 8, along = lane / 8 % 2 * 8;
#pragma unroll
    for (int k = 0; k < kTile; k += 16) {
      std::uint32_t a[4];
      if constexpr (reverse)
        load_blocks_transposed(a, &shared.scores[(k + across) * kScoreStride + row + along]);
      else
        load_blocks(a, &shared.scores[(row + lane % 16) * kScoreStride + k + lane / 16 * 8]);
      multiply(result, a, &shared.value[k * kColStride]);
#pragma unroll
      for (int i = 0; i < row_tiles; ++i) {
        load_blocks_transposed(a, &shared.key[(k + across) * kStride + state_row + i * 16 + along]);
        multiply(s[i], a, &shared.value[k * kColStride]);
      }
    }
    if constexpr (!reverse) decay_state();
    __syncthreads();
    if (more) copy_rest();
    copy_async_commit();

#pragma unroll
    for (int n = 0; n < kColTiles; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int i = row + lane / 4 + half * 8;
        const Index c = first_col + col + n * 8 + lane % 4 * 2;
        if (i < begin || i >= end || c >= p.result_valid) continue;
        float left = result[n][half * 2], right = result[n][half * 2 + 1];
        if constexpr (columns) {
          const Index at = head * p.chunks.width + c;
          float sums[2];
          load<2>(sums, p.chunks.sums.row<float>(first_row + i) + at);
          if (!p.pairs.empty()) {
            float own[2], pair[2] = {};
            load<2>(own, p.own.row<Bf16>(first_row + i) + at);
            float* pairs = p.pairs.row<float>(first_row + i) + at;
            if (reverse) load<2>(pair, pairs);
            pair[0] = reverse ? pair[0] - own[0] * left : own[0] * left;
            pair[1] = reverse ? pair[1] - own[1] * right : own[1] * right;
            store<2>(pairs, pair);
          }
          left *= reverse ? exp2f(-sums[0]) : p.scale * exp2f(sums[0]);
          right *= reverse ? exp2f(-sums[1]) : p.scale * exp2f(sums[1]);
        }
        *reinterpret_cast<std::uint32_t*>(p.result.row<Bf16>(first_row + i) +
                                          head * p.result_valid + c) = pack_bf16(left, right);
      }
  }
  if (slot != nullptr) visit_state([](float x, float* to) { *to = x; });
}

// ---- the host's side ----------------------------------------------------------------------------

/// Prepared chunks and the memory that they lie in.
struct Prepared {
  Matrix query, key, sums, masks;
  Chunks chunks;
};

/// Queues their making. The batch's spans lie in the GPU's memory.
inline Prepared prepare(CudaStream& stream, Prepare p) {
  const Index rows = p.q.rows, keys = p.q.cols / p.heads, tiles = count_tiles(p.batch);
  const Index width = ceil_div(keys, Index{kTile}) * kTile;
  Prepared made{Matrix(stream, DType::bf16, rows, p.heads * width),
                Matrix(stream, DType::bf16, rows, p.heads * width),
                Matrix(stream, DType::f32, rows, p.heads * width),
                Matrix(stream, DType::f64, tiles, p.heads),
                {}};
  made.chunks = {width, made.query, made.key, made.sums,
                 reinterpret_cast<Mask*>(made.masks.row<double>(0))};
  p.to = made.chunks;
  const bool whole = keys % 2 == 0 && aligned(2, p.q, p.k, p.gate);
  launch(stream, whole ? prepare_chunks<true> : prepare_chunks<false>,
         dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(p.heads)),
         static_cast<unsigned>(width / 2 * kParts), 0, p);
  return made;
}

/// Queues the scores of all chunks; [tiles, H * kTile * kTile].
inline Matrix score(CudaStream& stream, const Batch& batch, const Chunks& chunks, ConstView query,
                    ConstView key, Index heads) {
  const Index tiles = count_tiles(batch);
  Matrix scores(stream, DType::bf16, tiles, heads * kTile * kTile);
  launch(stream, score_chunks, dim3(static_cast<unsigned>(tiles), static_cast<unsigned>(heads)),
         kScoreThreads, 0,
         Scores{query, key, query.cols / heads, heads, batch, chunks.masks, scores.row<Bf16>(0)});
  return scores;
}

template <class F>
void launch_sweep(CudaStream& stream, const Sweep& p) {
  const dim3 grid(static_cast<unsigned>(p.batch.count), static_cast<unsigned>(p.heads),
                  static_cast<unsigned>(ceil_div(p.result_valid, Index{F::cols})));
  launch(stream, sweep<F>, grid, F::threads, sizeof(typename F::Memory), p);
}

/// Queues the walk for spans of kShort tokens or more, with decays along the rows of S ...
template <bool reverse>
void walk_rows_by_chunks(CudaStream& stream, const Sweep& p) {
  switch (ceil_div(p.valid, Index{kTile})) {
    case 1: return launch_sweep<Form<1, 64, 2, 1, reverse, false>>(stream, p);
    case 2: return launch_sweep<Form<2, 64, 2, 1, reverse, false>>(stream, p);
    case 3: return launch_sweep<Form<3, 64, 2, 1, reverse, false>>(stream, p);
    default: return launch_sweep<Form<4, 64, 4, 1, reverse, false>>(stream, p);
  }
}

/// ... or along its columns. For gradients of gates S counts to 16 bits.
template <bool reverse>
void walk_columns_by_chunks(CudaStream& stream, const Sweep& p) {
  switch (ceil_div(p.valid, Index{kTile})) {
    case 0:
    case 1: return launch_sweep<Form<1, 64, 2, 2, reverse, true>>(stream, p);
    case 2: return launch_sweep<Form<2, 64, 2, 2, reverse, true>>(stream, p);
    case 3:
    case 4: return launch_sweep<Form<4, 64, 4, 2, reverse, true>>(stream, p);
    case 5:
    case 6: return launch_sweep<Form<6, 64, 4, 2, reverse, true>>(stream, p);
    default: break;
  }
  if (p.pairs.empty()) return launch_sweep<Form<8, 64, 4, 1, reverse, true>>(stream, p);
  return launch_sweep<Form<8, 32, 2, 2, reverse, true>>(stream, p);
}

/// Whether chunks serve for some of the spans, whose values are `values`; else it is token by
/// token.
inline bool serves_chunks(DType dtype, const Batch& batch, Index keys, Index values) {
  return dtype == DType::bf16 && batch.longest >= kShort && keys > 0 && keys <= kMostKeys &&
         values <= kMostValues && values % 8 == 0;
}

/// The longest span that is worked through token by token where chunks serve; 0: none is.
inline Index longest_short(const Batch& host) {
  Index longest = 0;
  for (Index i = 0; i < host.count; ++i)
    if (host.spans[i].length < kShort) longest = std::max(longest, host.spans[i].length);
  return longest;
}

}  // namespace
}  // namespace samba
