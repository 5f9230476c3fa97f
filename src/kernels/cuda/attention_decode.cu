#include <algorithm>
#include <numeric>

#include "kernels/cuda/attention_parts.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/vector.cuh"

// One query of each head against a sequence's ring, which is bound by reading the ring once.
//
// The ring's rows are cut into chunks, the longer the more keys are seen. A block takes
// one chunk of neighbouring kv heads, a warp each, so that it reads long runs of memory: scores,
// softmax and weighted sum of values; a second kernel joins the chunks in order (Dao et al. 2023,
// "Flash-Decoding"). Launches depend on numbers of sequences and on capacities, never on positions:
// these change while a graph is replayed.
namespace samba::attention {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;

/// How the work of a call is cut.
struct Cut {
  int ring;      ///< rows of a ring
  int shift;     ///< a chunk has at least 2^shift of them
  int chunks;    ///< of a sequence, at most
  int together;  ///< kv heads of a block: 1, 2 or 4; its other warps take other rows
  int shares;    ///< blocks that share a kv head's query heads
  int heads;     ///< query heads of a kv head in a block, at most
};

/// The chunks leave their sums here: row (span * chunks + chunk) * H + head.
struct Partials {
  View sums;    ///< [.., V] of weights times values
  View totals;  ///< [.., 2]: largest score as exponent of two, sum of weights
};

/// Not more than 64 chunks where few keys are seen, so that they are joined quickly; then chunks so
/// long that their sums are few bytes beside the keys and values; and never more than 4096.
constexpr int kFewChunks = 64, kManyChunks = 4096, kLongShift = 10;
__host__ __device__ inline bool too_many_chunks(int keys, int shift) {
  return (shift < kLongShift && keys >> shift > kFewChunks) || keys >> shift > kManyChunks;
}

/// The rows of a ring that one query sees: first .. last, or those up to last and from first on.
/// The last is its own, which is read from the batch instead.
struct Sight {
  int first;
  int last;
  int rows;   ///< of the ring
  int shift;  ///< chunks are 2^shift of them

  __device__ Sight(const op::Attention& op, const Cut& cut, const Span& span) {
    first = last = 0;
    rows = cut.ring;
    shift = cut.shift;
    if (span.slot < 0) return;
    const Index position = span.position;
    // The division of large numbers takes long.
    last = position < (Index{1} << 31)
               ? static_cast<int>(static_cast<unsigned>(position) % static_cast<unsigned>(rows))
               : static_cast<int>(position % rows);
    // The window is no longer than the ring: what would lie further back does not exist.
    const int before = static_cast<int>(position - first_key(op, position));
    first = last - before;
    if (first < 0) first += rows;
    while (too_many_chunks(before, shift)) ++shift;
  }
  __device__ bool wraps() const { return first > last; }
  __device__ bool sees(int row) const {
    return wraps() ? row <= last || row >= first : row >= first && row <= last;
  }
  /// Whether rows row .. row + count - 1 are seen and lie in the ring.
  __device__ bool sees_all(int row, int count) const {
    const bool low = row + count - 1 < last;
    return wraps() ? low || row >= first : low && row >= first;
  }
  /// Chunks with rows that are seen, and the i-th of them.
  __device__ int chunks() const {
    if (!wraps()) return (last >> shift) - (first >> shift) + 1;
    const int low = (last >> shift) + 1;
    return low + ((rows - 1) >> shift) + 1 - max(first >> shift, low);
  }
  __device__ int chunk_at(int i) const {
    if (!wraps()) return (first >> shift) + i;
    const int low = (last >> shift) + 1;
    return i < low ? i : max(first >> shift, low) + i - low;
  }
};

/// One block's piece.
struct Item {
  int span = -1;   ///< -1: there is none
  int index;       ///< among the span's chunks
  int kv_head;     ///< the first
  int first_head;  ///< of the query heads of a kv head
};

/// The item of that number, found by a whole warp: 32 spans at a time.
__device__ Item find_item(const op::Attention& op, const Cut& cut, int number) {
  const int lane = threadIdx.x % 32, count = static_cast<int>(op.batch.count);
  const int per_chunk = static_cast<int>(op.heads.kv_heads) / cut.together * cut.shares;
  const int chunk_number = number / per_chunk, rest = number % per_chunk;
  int before = 0;
  for (int base = 0; base < count; base += 32) {
    int chunks = 0;
    if (base + lane < count) {
      const Span span = op.batch.spans[base + lane];
      if (decodes(op, span)) chunks = Sight(op, cut, span).chunks();
    }
    int end = chunks;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(0xffffffffu, end, step);
      if (lane >= step) end += other;
    }
    end += before;
    const unsigned beyond = __ballot_sync(0xffffffffu, end > chunk_number);
    if (beyond != 0) {
      const int at = __ffs(static_cast<int>(beyond)) - 1;
      const int start = __shfl_sync(0xffffffffu, end - chunks, at);
      return {base + at, chunk_number - start, rest / cut.shares * cut.together,
              rest % cut.shares * cut.heads};
    }
    before = __shfl_sync(0xffffffffu, end, 31);
  }
  return {};
}

/// What a block knows of its item.
struct Piece {
  Span span;
  Sight sight;
  int begin, end;  ///< rows of the ring
  int heads;       ///< query heads of each kv head, from `head` on; those of the next
  int head;        ///< `group` behind
  int group;
  bool own;  ///< holds the token's own row

  __device__ Piece(const op::Attention& op, const Cut& cut, const Item& item)
      : span(op.batch.spans[item.span]), sight(op, cut, span) {
    begin = sight.chunk_at(item.index) << sight.shift;
    end = min(begin + (1 << sight.shift), cut.ring);
    own = begin <= sight.last && sight.last < end;
    if (!sight.wraps()) {
      begin = max(begin, sight.first);
      end = min(end, sight.last + 1);
    }
    group = static_cast<int>(op.heads.heads / op.heads.kv_heads);
    heads = min(cut.heads, group - item.first_head);
    head = item.kv_head * group + item.first_head;
  }
};

/// The block whose chunk holds the token's own row writes it to the ring; nobody reads it there.
template <class T>
__device__ void leave_row(const op::Attention& op, const Cut& cut, const Item& item,
                          const Piece& piece) {
  if (!piece.own || piece.span.slot < 0 || item.first_head != 0) return;
  const auto copy_heads = [&](const View& state, const ConstView& from, Index width) {
    const T* source = from.row<T>(piece.span.first) + item.kv_head * width;
    T* to = state.row<T>(piece.span.slot) + piece.sight.last * from.cols + item.kv_head * width;
    for (Index i = threadIdx.x; i < cut.together * width; i += kThreads) to[i] = source[i];
  };
  copy_heads(op.key_state, op.k, op.heads.width);
  copy_heads(op.value_state, op.v, op.heads.value_width);
}

/// Asks for a piece's keys and values, a thread for a row; rows lie at multiples of 16 bytes.
__device__ void prefetch_chunk(const op::Attention& op, const Cut& cut, const Item& item) {
  const Piece piece(op, cut, item);
  if (piece.span.slot < 0) return;
  const auto bytes = static_cast<unsigned>(cut.together * op.heads.width * sizeof(Bf16));
  const Index col = item.kv_head * op.heads.width;
  for (int i = piece.begin + static_cast<int>(threadIdx.x); i < piece.end; i += kThreads) {
    prefetch_run(op.key_state.row<Bf16>(piece.span.slot) + i * op.k.cols + col, bytes);
    prefetch_run(op.value_state.row<Bf16>(piece.span.slot) + i * op.v.cols + col, bytes);
  }
}

// ---- bf16 on tensor cores --------------------------------------------------------------------

/// `keys` at a time for each warp, `stages` of them on their way; query heads in `halves` of 8.
template <int width_, int keys_, int stages_, int halves_>
struct Layout {
  static constexpr int width = width_;
  static constexpr int keys = keys_;
  static constexpr int stages = stages_;
  static constexpr int halves = halves_;
  static constexpr int heads = 8 * halves;
  static constexpr int stage = 2 * keys * width;  ///< elements
  static constexpr std::size_t shared = sizeof(Bf16) * kWarps * stages * stage;
  /// Blocks of a multiprocessor.
  static constexpr int resident = static_cast<int>((std::size_t{227} << 10) / (shared + 3072));
  static_assert(sizeof(float) * kWarps * heads * width <= shared);
};

/// Rows of `width` bf16, whose units of 16 bytes change places so that a column of 8 rows lies in
/// 8 different groups of banks.
template <int width>
__device__ Bf16* unit_of(Bf16* tile, int row, int unit) {
  return tile + row * width + (unit ^ (row % 8)) * 8;
}

/// Sends rows base .. base + keys - 1 of one kv head on their way, as zeros those that are not
/// seen.
template <class L>
__device__ void send(Bf16* tile, ConstView own, ConstView ring, int col, const Piece& piece,
                     int base) {
  constexpr int kUnits = L::width / 8, kRowsAtOnce = 32 / kUnits;
  const int row = threadIdx.x % 32 / kUnits, unit = threadIdx.x % kUnits;
  const Bf16* from = ring.row<Bf16>(piece.span.slot) + (base + row) * own.cols + col + unit * 8;
  const bool all = base + L::keys <= piece.end && piece.sight.sees_all(base, L::keys);
#pragma unroll
  for (int r = 0; r < L::keys; r += kRowsAtOnce) {
    Bf16* to = unit_of<L::width>(tile, r + row, unit);
    const int place = base + r + row;
    if (all)
      copy_async(to, from, true);
    else if (place == piece.sight.last)
      copy_async(to, own.row<Bf16>(piece.span.first) + col + unit * 8, true);
    else if (place < piece.end && piece.sight.sees(place))
      copy_async(to, from, true);
    else
      copy_async(to, own.row<Bf16>(0), false);
    from += kRowsAtOnce * own.cols;
  }
}

/// One warp's share of a chunk: one kv head, steps of L::keys rows, every few of them where warps
/// share the head. A lane has of the query heads rows lane / 4 and lane / 4 + 8, as multiply_add()
/// deals them out.
template <class L>
struct Worker {
  float largest[L::halves];  ///< raw scores
  float total[L::halves];    ///< of the lane's own columns
  float sums[L::width / 8][4];

  __device__ void attend(const op::Attention& op, const Cut& cut, const Item& item,
                         const Piece& piece, Bf16* memory) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, next = warp % cut.together;
    const int col = (item.kv_head + next) * L::width, head = piece.head + next * piece.group;
    const int from = piece.begin + warp / cut.together * L::keys;
    const int stride = kWarps / cut.together * L::keys;
    const auto load = [&](int step) {
      const int base = from + step * stride;
      if (base < piece.end) {
        Bf16* tile = memory + step % L::stages * L::stage;
        send<L>(tile, op.k, op.key_state, col, piece, base);
        send<L>(tile + L::stage / 2, op.v, op.value_state, col, piece, base);
      }
      copy_async_commit();
    };
#pragma unroll
    for (int step = 0; step < L::stages - 1; ++step) load(step);

    std::uint32_t q[L::width / 16][4];
#pragma unroll
    for (int i = 0; i < L::width / 16; ++i)
#pragma unroll
      for (int part = 0; part < 4; ++part) {
        const int row = lane / 4 + part % 2 * 8;
        const Bf16* at = op.q.row<Bf16>(piece.span.first) + (head + row) * L::width + i * 16 +
                         part / 2 * 8 + lane % 4 * 2;
        q[i][part] = row < piece.heads ? *reinterpret_cast<const std::uint32_t*>(at) : 0;
      }
    const float scale = static_cast<float>(op.scale * kLog2e);
#pragma unroll
    for (int r = 0; r < L::halves; ++r) {
      largest[r] = kNothing;
      total[r] = 0;
    }
#pragma unroll
    for (int d = 0; d < L::width / 8; ++d)
#pragma unroll
      for (int j = 0; j < 4; ++j) sums[d][j] = 0;
    int step = 0;
    for (int base = from; base < piece.end; base += stride, ++step) {
      copy_async_wait<L::stages - 2>();
      __syncwarp();
      load(step + L::stages - 1);
      Bf16* keys = memory + step % L::stages * L::stage;
      float scores[L::keys / 8][4] = {};
#pragma unroll
      for (int i = 0; i < L::width / 16; ++i)
#pragma unroll
        for (int k = 0; k < L::keys / 16; ++k) {
          std::uint32_t b[4];
          load_blocks(
              b, unit_of<L::width>(keys, k * 16 + lane / 16 * 8 + lane % 8, i * 2 + lane / 8 % 2));
          multiply_add(scores[2 * k], q[i], b[0], b[1]);
          multiply_add(scores[2 * k + 1], q[i], b[2], b[3]);
        }
      if (base + L::keys > piece.end || !piece.sight.sees_all(base, L::keys))
#pragma unroll
        for (int k = 0; k < L::keys / 8; ++k)
#pragma unroll
          for (int j = 0; j < 4; ++j) {
            const int place = base + k * 8 + lane % 4 * 2 + j % 2;
            if (place >= piece.end || !piece.sight.sees(place)) scores[k][j] = kNothing;
          }
      std::uint32_t weights[L::keys / 16][4] = {};
#pragma unroll
      for (int r = 0; r < L::halves; ++r) weigh(scores, r, scale, weights);
      Bf16* values = keys + L::stage / 2;
#pragma unroll
      for (int k = 0; k < L::keys / 16; ++k)
#pragma unroll
        for (int d = 0; d < L::width / 8; d += 2) {
          std::uint32_t b[4];
          load_blocks_transposed(
              b, unit_of<L::width>(values, k * 16 + lane / 8 % 2 * 8 + lane % 8, d + lane / 16));
          multiply_add(sums[d], weights[k], b[0], b[1]);
          multiply_add(sums[d + 1], weights[k], b[2], b[3]);
        }
      __syncwarp();
    }
    copy_async_wait<0>();
  }

  /// Softmax of half r of the heads over one step.
  __device__ void weigh(float (&scores)[L::keys / 8][4], int r, float scale,
                        std::uint32_t (&weights)[L::keys / 16][4]) {
    float most = largest[r];
#pragma unroll
    for (int k = 0; k < L::keys / 8; ++k)
      most = fmaxf(most, fmaxf(scores[k][2 * r], scores[k][2 * r + 1]));
    most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
    most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
    const float factor = exp2_fast((largest[r] - most) * scale);
    largest[r] = most;
    total[r] *= factor;
    // The score of a key that is not seen is lower by far than any: unless none is seen at all, in
    // which case the weights are 1 and the rows of values zeros.
    const bool none = most == kNothing;
#pragma unroll
    for (int k = 0; k < L::keys / 8; ++k) {
      float w[2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        w[j] = none ? 0.0f : exp2_fast((scores[k][2 * r + j] - most) * scale);
        total[r] += w[j];
      }
      weights[k / 2][k % 2 * 2 + r] = pack_bf16(w[0], w[1]);
    }
    if (__any_sync(0xffffffffu, factor != 1))
#pragma unroll
      for (int d = 0; d < L::width / 8; ++d) {
        sums[d][r * 2] *= factor;
        sums[d][r * 2 + 1] *= factor;
      }
  }

  /// Joins the warps of the block in their order and writes the chunk's sums.
  __device__ void finish(const op::Attention& op, const Cut& cut, const Item& item,
                         const Piece& piece, const Partials& partials, float* memory,
                         float (*largests)[kWarps], float (*totals)[kWarps]) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const float scale = static_cast<float>(op.scale * kLog2e);
#pragma unroll
    for (int r = 0; r < L::halves; ++r) {
      total[r] += __shfl_xor_sync(0xffffffffu, total[r], 1);
      total[r] += __shfl_xor_sync(0xffffffffu, total[r], 2);
      if (lane % 4 == 0) {
        largests[lane / 4 + r * 8][warp] = largest[r];
        totals[lane / 4 + r * 8][warp] = total[r];
      }
    }
    __syncthreads();  // which also ends all reading of the pipelines
    const int row =
        (item.span * cut.chunks + item.index) * static_cast<int>(op.heads.heads) + piece.head;
    const int next = warp % cut.together;
#pragma unroll
    for (int r = 0; r < L::halves; ++r) {
      const int h = lane / 4 + r * 8;
      float most = kNothing;
      for (int w = next; w < kWarps; w += cut.together) most = fmaxf(most, largests[h][w]);
      const float factor = exp2_fast((largest[r] - most) * scale);
      float* to = memory + (warp * L::heads + h) * L::width + lane % 4 * 2;
#pragma unroll
      for (int d = 0; d < L::width / 8; ++d)
        *reinterpret_cast<float2*>(to + d * 8) =
            make_float2(sums[d][r * 2] * factor, sums[d][r * 2 + 1] * factor);
      if (warp < cut.together && lane % 4 == 0 && h < piece.heads) {
        float sum = 0;
        for (int w = next; w < kWarps; w += cut.together)
          sum += totals[h][w] * exp2_fast((largests[h][w] - most) * scale);
        *reinterpret_cast<float2*>(partials.totals.row<float>(row + next * piece.group + h)) =
            make_float2(most * scale, sum);
      }
    }
    __syncthreads();
    const int elements = piece.heads * L::width;  // of a kv head
    for (int i = threadIdx.x * 4; i < cut.together * elements; i += kThreads * 4) {
      const int kv_head = i / elements, element = i % elements;
      const float* from = memory + kv_head * L::heads * L::width + element;
      float4 sum = *reinterpret_cast<const float4*>(from);
      for (int w = cut.together; w < kWarps; w += cut.together) {
        const float4 x = *reinterpret_cast<const float4*>(from + w * L::heads * L::width);
        sum = make_float4(sum.x + x.x, sum.y + x.y, sum.z + x.z, sum.w + x.w);
      }
      *reinterpret_cast<float4*>(partials.sums.row<float>(row + kv_head * piece.group) + element) =
          sum;
    }
    __syncthreads();
  }
};

/// A block takes items `gridDim.x` apart.
template <class L>
__global__ void __launch_bounds__(kThreads, L::resident)
    decode_chunks(const op::Attention op, const Cut cut, const Partials partials) {
  extern __shared__ __align__(128) Bf16 memory[];
  __shared__ float largests[L::heads][kWarps], totals[L::heads][kWarps];
  let_next_begin();
  int number = static_cast<int>(blockIdx.x);
  Item item = find_item(op, cut, number);
  if (item.span >= 0) prefetch_chunk(op, cut, item);
  wait_for_previous();
  for (; item.span >= 0; item = find_item(op, cut, number)) {
    const Piece piece(op, cut, item);
    Worker<L> worker;
    worker.attend(op, cut, item, piece, memory + threadIdx.x / 32 * L::stages * L::stage);
    worker.finish(op, cut, item, piece, partials, reinterpret_cast<float*>(memory), largests,
                  totals);
    leave_row<Bf16>(op, cut, item, piece);
    number += static_cast<int>(gridDim.x);
  }
}

// ---- any type and width, a block a worker ----------------------------------------------------

constexpr int kStep = 64;  ///< keys at a time

template <class T>
__global__ void __launch_bounds__(kThreads)
    decode_generally(const op::Attention op, const Cut cut, const Partials partials) {
  extern __shared__ float floats[];
  let_next_begin();
  wait_for_previous();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int width = static_cast<int>(op.heads.width),
            value_width = static_cast<int>(op.heads.value_width);
  float* queries = floats;                          // [heads, K]
  float* sums = queries + cut.heads * width;        // [heads, V]
  float* weights = sums + cut.heads * value_width;  // [heads, kStep]
  float* factors = weights + cut.heads * kStep;     // [heads]
  float* largest = factors + cut.heads;             // [heads]
  float* totals = largest + cut.heads;              // [heads]
  const float scale = static_cast<float>(op.scale * kLog2e);
  for (int number = static_cast<int>(blockIdx.x);; number += static_cast<int>(gridDim.x)) {
    const Item item = find_item(op, cut, number);
    if (item.span < 0) return;
    const Piece piece(op, cut, item);
    const Span& span = piece.span;
    const Sight& sight = piece.sight;
    const int heads = piece.heads, end = piece.end;
    const Index head = piece.head;
    for (int i = threadIdx.x; i < heads * width; i += kThreads)
      queries[i] = to_float(op.q.row<T>(span.first)[head * width + i]);
    for (int i = threadIdx.x; i < heads * value_width; i += kThreads) sums[i] = 0;
    for (int i = threadIdx.x; i < heads; i += kThreads) {
      largest[i] = kNothing;
      totals[i] = 0;
    }
    const auto row = [&](const ConstView& own, const ConstView& ring, int place) {
      return place == sight.last ? own.row<T>(span.first)
                                 : ring.row<T>(span.slot) + place * own.cols;
    };
    __syncthreads();
    for (int base = piece.begin; base < end; base += kStep) {
      const int keys = min(kStep, end - base);
      for (int j = warp; j < keys; j += kWarps) {
        if (!sight.sees(base + j)) {
          for (int h = lane; h < heads; h += 32) weights[h * kStep + j] = kNothing;
          continue;
        }
        const T* key = row(op.k, op.key_state, base + j) + item.kv_head * width;
        for (int h = 0; h < heads; ++h) {
          float sum = 0;
          for (int d = lane; d < width; d += 32) sum += queries[h * width + d] * to_float(key[d]);
          sum = warp_sum(sum);
          if (lane == 0) weights[h * kStep + j] = sum;
        }
      }
      __syncthreads();
      for (int h = warp; h < heads; h += kWarps) {
        float* w = weights + h * kStep;
        float most = kNothing, sum = 0;
        for (int j = lane; j < keys; j += 32) most = fmaxf(most, w[j]);
        most = fmaxf(warp_max(most), largest[h]);
        for (int j = lane; j < keys; j += 32) {
          w[j] = w[j] > kNothing ? exp2f((w[j] - most) * scale) : 0.0f;
          sum += w[j];
        }
        sum = warp_sum(sum);
        __syncwarp();
        if (lane == 0) {
          factors[h] = exp2f((largest[h] - most) * scale);
          totals[h] = totals[h] * factors[h] + sum;
          largest[h] = most;
        }
      }
      __syncthreads();
      constexpr int kAtOnce = 4;
      for (int d = threadIdx.x; d < value_width; d += kThreads)
        for (int h = 0; h < heads; h += kAtOnce) {
          float sum[kAtOnce] = {};
          const int count = min(kAtOnce, heads - h);
          for (int j = 0; j < keys; ++j) {
            if (!sight.sees(base + j)) continue;
            const float value =
                to_float(row(op.v, op.value_state, base + j)[item.kv_head * value_width + d]);
#pragma unroll
            for (int i = 0; i < kAtOnce; ++i)
              if (i < count) sum[i] += weights[(h + i) * kStep + j] * value;
          }
#pragma unroll
          for (int i = 0; i < kAtOnce; ++i)
            if (i < count) {
              float& to = sums[(h + i) * value_width + d];
              to = to * factors[h + i] + sum[i];
            }
        }
      __syncthreads();
    }
    const Index to = (Index{item.span} * cut.chunks + item.index) * op.heads.heads + head;
    for (int i = threadIdx.x; i < heads * value_width; i += kThreads)
      partials.sums.row<float>(to)[i] = sums[i];
    for (int i = threadIdx.x; i < heads; i += kThreads) {
      partials.totals.row<float>(to + i)[0] = largest[i] * scale;
      partials.totals.row<float>(to + i)[1] = totals[i];
    }
    leave_row<T>(op, cut, item, piece);
    __syncthreads();
  }
}

// ---- the chunks together ---------------------------------------------------------------------

constexpr int kJoinThreads = 128;

/// A block takes one head of one span, a thread n neighbouring columns of every few chunks.
template <class T, int n>
__global__ void __launch_bounds__(kJoinThreads)
    join(const op::Attention op, const Cut cut, const Partials partials) {
  extern __shared__ float2 totals[];  // [chunks]: as in Partials; then .x is the chunk's factor
  __shared__ alignas(16) float scratch[kJoinThreads * n];
  constexpr int kWarpsOfJoin = kJoinThreads / 32;
  let_next_begin();
  const Span span = op.batch.spans[blockIdx.y];
  const int head = static_cast<int>(blockIdx.x), heads = static_cast<int>(op.heads.heads);
  const int width = static_cast<int>(op.heads.value_width), lane = threadIdx.x % 32;
  const int chunks = Sight(op, cut, span).chunks();
  const Index first = Index{blockIdx.y} * cut.chunks * heads + head;
  wait_for_previous();
  if (!decodes(op, span)) return;

  float largest = kNothing;
  for (int i = threadIdx.x; i < chunks; i += kJoinThreads) {
    totals[i] = *reinterpret_cast<const float2*>(partials.totals.row<float>(first + i * heads));
    largest = fmaxf(largest, totals[i].x);
  }
  largest = warp_max(largest);
  if (lane == 0) scratch[threadIdx.x / 32] = largest;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < kWarpsOfJoin; ++w) largest = fmaxf(largest, scratch[w]);
  float sum = 0;
  for (int i = threadIdx.x; i < chunks; i += kJoinThreads) {
    totals[i].x = exp2f(totals[i].x - largest);
    sum += totals[i].x * totals[i].y;
  }
  sum = block_sum<kJoinThreads>(sum, scratch + kWarpsOfJoin);
  if (op.lse.data != nullptr && threadIdx.x == 0)
    op.lse.row<float>(span.first)[head] = (largest + log2f(sum)) * kLn2;
  __syncthreads();

  int threads = 1;  // of a chunk
  while (threads * n < width && threads < kJoinThreads) threads *= 2;
  const int part = threadIdx.x / threads, parts = kJoinThreads / threads;
  for (int base = 0; base < width; base += threads * n) {
    const int d = base + threadIdx.x % threads * n;
    float y[n] = {};
    if (d < width) {
      constexpr int kAtOnce = 4;  // so many loads under way
      for (int i = part; i < chunks; i += parts * kAtOnce) {
        float x[kAtOnce][n];
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k)
          load<n>(x[k],
                  partials.sums.row<float>(first + min(i + k * parts, chunks - 1) * heads) + d);
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k)
          if (i + k * parts < chunks)
#pragma unroll
            for (int j = 0; j < n; ++j) y[j] += totals[i + k * parts].x * x[k][j];
      }
    }
    store<n>(scratch + threadIdx.x * n, y);
    __syncthreads();
    if (part == 0 && d < width) {
      for (int p = 1; p < parts; ++p)
#pragma unroll
        for (int j = 0; j < n; ++j) y[j] += scratch[(p * threads + threadIdx.x) * n + j];
      T* to = op.y.row<T>(span.first) + head * width + d;
#pragma unroll
      for (int j = 0; j < n; ++j) to[j] = from_float<T>(y[j] / sum);
    }
    __syncthreads();
  }
}

// ---- the host's side -------------------------------------------------------------------------

unsigned grid_of(CudaStream& stream, const op::Attention& op, const Cut& cut, int resident) {
  const Index items = op.batch.count * cut.chunks * (op.heads.kv_heads / cut.together) * cut.shares;
  return static_cast<unsigned>(std::min<Index>(items, Index{stream.multiprocessors()} * resident));
}

template <class L>
void launch_chunks(CudaStream& stream, const op::Attention& op, const Cut& cut,
                   const Partials& partials) {
  launch_early(stream, decode_chunks<L>, grid_of(stream, op, cut, L::resident), kThreads, L::shared,
               op, cut, partials);
}

template <int halves>
void launch_chunks(CudaStream& stream, const op::Attention& op, const Cut& cut,
                   const Partials& partials) {
  if (op.heads.width == 64)
    launch_chunks<Layout<64, 32, 3, halves>>(stream, op, cut, partials);
  else if (op.heads.width == 128)
    launch_chunks<Layout<128, 16, 3, halves>>(stream, op, cut, partials);
  else
    launch_chunks<Layout<256, 16, 3, halves>>(stream, op, cut, partials);
}

template <class T, int n>
void launch_join(CudaStream& stream, const op::Attention& op, const Cut& cut,
                 const Partials& partials) {
  const dim3 grid(static_cast<unsigned>(op.heads.heads), static_cast<unsigned>(op.batch.count));
  launch_early(stream, join<T, n>, grid, kJoinThreads,
               sizeof(float2) * static_cast<std::size_t>(cut.chunks), op, cut, partials);
}

/// Whether there is a kernel on tensor cores for the heads, and rows lie as it needs them.
bool tensor_cores_serve(const op::Attention& op) {
  const Index width = op.heads.width;
  return op.dtype() == DType::bf16 && width == op.heads.value_width &&
         (width == 64 || width == 128 || width == 256) && op.scale >= kLeastScale &&
         aligned(8, op.q, op.k, op.v, op.key_state, op.value_state);
}

}  // namespace

void decode(CudaStream& stream, const op::Attention& op) {
  const Index group = op.heads.heads / op.heads.kv_heads;
  const Index ring = capacity(op), width = op.heads.width, value_width = op.heads.value_width;
  const bool tensor_cores = tensor_cores_serve(op);
  const int together =
      tensor_cores ? static_cast<int>(std::gcd(op.heads.kv_heads, Index{kWarps})) : 1;
  int shift = 8;  // which a block's warps go through in a few steps
  for (int heads = together; heads > 1; heads /= 2) --shift;
  // Chunks that begin before the first key, end behind the last or at the end of the ring come on
  // top of those that are full.
  const Index most =
      std::max<Index>(kFewChunks, std::min<Index>(ring >> kLongShift, kManyChunks)) + 4;
  Cut cut{.ring = static_cast<int>(ring),
          .shift = shift,
          .chunks = static_cast<int>(std::min(most, ceil_div(ring, Index{1} << shift))),
          .together = together,
          .shares = 1,
          .heads = 16};
  const auto shared = [&] {
    return sizeof(float) * static_cast<std::size_t>(cut.heads * (width + value_width + kStep + 3));
  };
  if (tensor_cores) {
    cut.heads = group > 8 ? 16 : 8;
  } else {
    constexpr std::size_t kShared = 64 << 10;
    while (cut.heads > 1 && (shared() > kShared || cut.heads / 2 >= group)) cut.heads /= 2;
  }
  cut.shares = static_cast<int>(ceil_div(group, Index{cut.heads}));
  const Index rows = op.batch.count * cut.chunks * op.heads.heads;
  const Matrix sums(stream, DType::f32, rows, value_width), totals(stream, DType::f32, rows, 2);
  const Partials partials{sums, totals};
  if (!tensor_cores)
    visit_float(op.dtype(), [&]<class T>() {
      launch_early(stream, decode_generally<T>, grid_of(stream, op, cut, 8), kThreads, shared(), op,
                   cut, partials);
    });
  else if (cut.heads == 8)
    launch_chunks<1>(stream, op, cut, partials);
  else
    launch_chunks<2>(stream, op, cut, partials);
  visit_float(op.dtype(), [&]<class T>() {
    if (value_width % 4 == 0)
      launch_join<T, 4>(stream, op, cut, partials);
    else
      launch_join<T, 1>(stream, op, cut, partials);
  });
}

}  // namespace samba::attention
