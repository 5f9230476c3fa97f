#include <algorithm>
#include <limits>
#include <numeric>

#include "kernels/cuda/attention_decode.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/vector.cuh"

// One query of each head against a sequence's ring, which is bound by reading the ring once: bf16
// on tensor cores. A block reads long runs of memory, a warp each: scores, softmax and weighted sum
// of values.
namespace samba::attention {
namespace {

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
  /// With what a block has beside them.
  static constexpr std::size_t all_shared =
      shared + sizeof(float) * 2 * heads * kWarps + sizeof(Bf16) * 2 * kWarps * width;
  /// Blocks of a multiprocessor.
  static constexpr int resident = static_cast<int>((std::size_t{228} << 10) / (all_shared + 1024));
  static_assert(sizeof(float) * kWarps * heads * width <= shared);
};
template <int halves>
using Layout64 = Layout<64, 32, 3, halves>;
template <int halves>
using Layout128 = Layout<128, 16, 3, halves>;
/// Two stages are what an A100 has the memory for.
template <int halves>
using Layout256 = Layout<256, 16, 2, halves>;

/// Where a chunk's keys or values are, of its first kv head.
struct Rows {
  Bf16* ring;
  const Bf16* own;  ///< the token's

  __device__ Rows(const View& state, const ConstView& batch, const Chunk& chunk, int width)
      : ring(state.row<Bf16>(chunk.slot) + chunk.kv_head * width),
        own(batch.row<Bf16>(chunk.token) + chunk.kv_head * width) {}
};
template <int width>
struct Source {
  Rows keys, values;
  int cols;  ///< from row to row of a ring

  __device__ Source(const op::Attention& op, const Chunk& chunk)
      : keys(op.key_state, op.k, chunk, width),
        values(op.value_state, op.v, chunk, width),
        cols(static_cast<int>(op.k.cols)) {}

  /// Asks for the chunk's first rows of the rings, a thread for a row; all lie at multiples of 16
  /// bytes. No more of them than the L2 cache holds of all blocks: what falls out again before it
  /// is read comes from memory twice.
  __device__ void prefetch(const Cut& cut, const Chunk& chunk) const {
    constexpr int kRows = 64;
    if (chunk.slot < 0) return;
    const auto bytes = static_cast<unsigned>(cut.together * width * sizeof(Bf16));
#pragma unroll 1
    for (int i = chunk.begin + static_cast<int>(threadIdx.x);
         i < min(chunk.end, chunk.begin + kRows); i += kThreads) {
      prefetch_run(keys.ring + Index{i} * cols, bytes);
      prefetch_run(values.ring + Index{i} * cols, bytes);
    }
  }
};

/// The token's own rows on their way to the ring through shared memory, 16 bytes a thread. Nobody
/// reads them there.
template <int width>
struct OwnRows {
  uint4 rows[2][kWarps * width / 8];
  static_assert(kWarps * width / 8 <= kThreads);

  /// Before the worker's copies, with which they come.
  __device__ void take(const Source<width>& source, const Cut& cut, const Chunk& chunk) {
    const int unit = threadIdx.x;
    if (!chunk.leaves || unit >= cut.together * width / 8) return;
    copy_async(&rows[0][unit], source.keys.own + unit * 8, true);
    copy_async(&rows[1][unit], source.values.own + unit * 8, true);
  }
  __device__ void leave(const Source<width>& source, const Cut& cut, const Chunk& chunk) const {
    const int unit = threadIdx.x;
    if (!chunk.leaves || unit >= cut.together * width / 8) return;
    const Index to = Index{chunk.sight.last} * source.cols + unit * 8;
    *reinterpret_cast<uint4*>(source.keys.ring + to) = rows[0][unit];
    *reinterpret_cast<uint4*>(source.values.ring + to) = rows[1][unit];
  }
};

/// Rows of `width` bf16, whose units of 16 bytes change places so that a column of 8 rows lies in
/// 8 different groups of banks.
template <int width>
__device__ Bf16* unit_of(Bf16* tile, int row, int unit) {
  return tile + row * width + (unit ^ (row % 8)) * 8;
}

/// Sends keys and values of rows base .. base + keys - 1 on their way, of the kv head whose columns
/// begin at `col` of the source; as zeros those that are not seen.
template <class L>
__device__ void send(Bf16* tile, const Source<L::width>& source, const Chunk& chunk, int col,
                     int base) {
  constexpr int kUnits = L::width / 8, kRowsAtOnce = 32 / kUnits;
  const int row = threadIdx.x % 32 / kUnits, unit = threadIdx.x % kUnits;
#pragma unroll 1
  for (int half = 0; half < 2; ++half) {
    const Bf16* own = (half == 0 ? source.keys.own : source.values.own) + col + unit * 8;
    const Bf16* ring = (half == 0 ? source.keys.ring : source.values.ring) + col + unit * 8;
#pragma unroll 2
    for (int r = 0; r < L::keys; r += kRowsAtOnce) {
      const int place = base + r + row;
      const bool there = chunk.sees(place);
      const Bf16* from =
          there & (place != chunk.sight.last) ? ring + Index{place} * source.cols : own;
      copy_async(unit_of<L::width>(tile, r + row, unit), from, there);
    }
    tile += L::stage / 2;
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

  __device__ void attend(const op::Attention& op, const Cut& cut, const Chunk& chunk,
                         const Source<L::width>& source, Bf16* memory) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, next = warp % cut.together;
    const int col = next * L::width, head = chunk.head + next * cut.group;

    std::uint32_t q[L::width / 16][4];
    const Bf16* queries = op.q.row<Bf16>(chunk.token) + (head + lane / 4) * L::width + lane % 4 * 2;
#pragma unroll
    for (int part = 0; part < 4; ++part) {
      const bool there = part % 2 < L::halves && lane / 4 + part % 2 * 8 < chunk.heads;
#pragma unroll
      for (int i = 0; i < L::width / 16; ++i) {
        const Bf16* at = queries + part % 2 * 8 * L::width + i * 16 + part / 2 * 8;
        q[i][part] = there ? *reinterpret_cast<const std::uint32_t*>(at) : 0;
      }
    }
#pragma unroll
    for (int r = 0; r < L::halves; ++r) {
      largest[r] = kNothing;
      total[r] = 0;
    }
#pragma unroll
    for (int d = 0; d < L::width / 8; ++d)
#pragma unroll
      for (int j = 0; j < 4; ++j) sums[d][j] = 0;

    // The first steps send only.
    constexpr int kAhead = L::stages - 1;
    const int stride = kWarps / cut.together * L::keys;
    int base = chunk.begin + warp / cut.together * L::keys - kAhead * stride, stage = 0;
#pragma unroll 1
    for (int step = -kAhead; base < chunk.end; ++step, base += stride) {
      if (base + kAhead * stride < chunk.end)
        send<L>(memory + stage * L::stage, source, chunk, col, base + kAhead * stride);
      copy_async_commit();
      stage = stage + 1 == L::stages ? 0 : stage + 1;
      if (step < 0) continue;
      copy_async_wait<kAhead>();
      __syncwarp();
      Bf16* keys = memory + stage * L::stage;
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
      if (!chunk.sees_all(base, L::keys))
#pragma unroll
        for (int k = 0; k < L::keys / 8; ++k)
#pragma unroll
          for (int j = 0; j < 2; ++j) {
            const bool seen = chunk.sees(base + k * 8 + lane % 4 * 2 + j);
#pragma unroll
            for (int r = 0; r < L::halves; ++r)
              scores[k][2 * r + j] = seen ? scores[k][2 * r + j] : kNothing;
          }
      std::uint32_t weights[L::keys / 16][4] = {};
#pragma unroll
      for (int r = 0; r < L::halves; ++r) weigh(scores, r, cut.scale, weights);
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
  __device__ void finish(const op::Attention& op, const Cut& cut, const Chunk& chunk,
                         const Partials& partials, float* memory, float2 (*totals)[kWarps]) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, next = warp % cut.together;
#pragma unroll
    for (int r = 0; r < L::halves; ++r) {
      total[r] += __shfl_xor_sync(0xffffffffu, total[r], 1);
      total[r] += __shfl_xor_sync(0xffffffffu, total[r], 2);
      if (lane % 4 == 0) totals[lane / 4 + r * 8][warp] = make_float2(largest[r], total[r]);
    }
    __syncthreads();  // which also ends all reading of the pipelines
    const int row = (chunk.span * cut.chunks + chunk.index) * static_cast<int>(op.heads.heads) +
                    chunk.head + next * cut.group;
#pragma unroll
    for (int r = 0; r < L::halves; ++r) {
      const int h = lane / 4 + r * 8;
      float most = kNothing, sum = 0;
#pragma unroll 1
      for (int w = next; w < kWarps; w += cut.together) {
        const float2 other = totals[h][w];
        const float larger = fmaxf(most, other.x);
        sum = sum * exp2_fast((most - larger) * cut.scale) +
              other.y * exp2_fast((other.x - larger) * cut.scale);
        most = larger;
      }
      const float factor = exp2_fast((largest[r] - most) * cut.scale);
      float* to = memory + (warp * L::heads + h) * L::width + lane % 4 * 2;
#pragma unroll
      for (int d = 0; d < L::width / 8; ++d)
        *reinterpret_cast<float2*>(to + d * 8) =
            make_float2(sums[d][r * 2] * factor, sums[d][r * 2 + 1] * factor);
      if (warp < cut.together && lane % 4 == 0 && h < chunk.heads)
        partials.totals[row + h] = make_float2(most * cut.scale, sum);
    }
    __syncthreads();
    // The warps of a kv head share its columns.
    float* to = partials.sums + Index{row} * L::width;
    const int share = warp / cut.together * 32 + lane, shares = kWarps / cut.together * 32;
#pragma unroll 1
    for (int i = share * 4; i < chunk.heads * L::width; i += shares * 4) {
      const float* from = memory + next * L::heads * L::width + i;
      float4 sum = *reinterpret_cast<const float4*>(from);
#pragma unroll 1
      for (int w = cut.together; w < kWarps; w += cut.together) {
        const float4 x = *reinterpret_cast<const float4*>(from + w * L::heads * L::width);
        sum = make_float4(sum.x + x.x, sum.y + x.y, sum.z + x.z, sum.w + x.w);
      }
      *reinterpret_cast<float4*>(to + i) = sum;
    }
  }
};

template <class L>
__global__ void __launch_bounds__(kThreads, L::resident)
    decode_chunks(const op::Attention op, const Cut cut, const Partials partials) {
  extern __shared__ __align__(128) Bf16 memory[];
  __shared__ float2 totals[L::heads][kWarps];
  __shared__ OwnRows<L::width> own;
  let_next_begin();
#pragma unroll 1
  for (unsigned number = blockIdx.x;; number += gridDim.x) {
    const Chunk chunk(op, cut, static_cast<int>(number));
    const Source<L::width> source(op, chunk);
    if (number == blockIdx.x) {
      if (chunk.span >= 0) source.prefetch(cut, chunk);
      wait_for_previous();
    }
    if (chunk.span < 0) return;
    own.take(source, cut, chunk);
    Worker<L> worker;
    worker.attend(op, cut, chunk, source, memory + threadIdx.x / 32 * L::stages * L::stage);
    worker.finish(op, cut, chunk, partials, reinterpret_cast<float*>(memory), totals);
    own.leave(source, cut, chunk);
    __syncthreads();
  }
}

// ---- the chunks together ---------------------------------------------------------------------

constexpr int kJoinThreads = 256;

/// The sum of some chunks, of n columns.
template <int n>
struct Sum {
  float2 total = make_float2(kNothing, 0);  ///< as in Partials
  float y[n] = {};

  __device__ void add(float2 other, const float (&x)[n]) {
    const float largest = fmaxf(total.x, other.x);
    const float own = exp2_fast(total.x - largest), factor = exp2_fast(other.x - largest);
    total = make_float2(largest, total.y * own + other.y * factor);
#pragma unroll
    for (int j = 0; j < n; ++j) y[j] = y[j] * own + x[j] * factor;
  }
};

/// A block takes one head of one span; 2^shift threads take every few chunks, n neighbouring
/// columns each.
template <class T, int n>
__global__ void __launch_bounds__(kJoinThreads)
    join(const op::Attention op, const Cut cut, const Partials partials, const int shift) {
  __shared__ alignas(16) float sums[kJoinThreads * n];
  __shared__ float2 totals[kJoinThreads];
  let_next_begin();
  const Span span = op.batch.spans[blockIdx.y];
  const int head = static_cast<int>(blockIdx.x), heads = static_cast<int>(op.heads.heads);
  const int width = static_cast<int>(op.heads.value_width);
  const int chunks = Sight(op, cut, span).chunks(cut);
  const int first = static_cast<int>(blockIdx.y) * cut.chunks * heads + head;
  const int threads = 1 << shift, parts = kJoinThreads >> shift;
  const int part = static_cast<int>(threadIdx.x) >> shift,
            column = (threadIdx.x - (part << shift)) * n;
  wait_for_previous();
  if (!decodes(op, span)) return;

#pragma unroll 1
  for (int base = 0; base < width; base += threads * n) {
    const int d = base + column;
    Sum<n> sum;
    if (d < width) {
      constexpr int kAtOnce = 2;  // so many loads under way
#pragma unroll 1
      for (int i = part; i < chunks; i += parts * kAtOnce) {
        float2 total[kAtOnce];
        float x[kAtOnce][n] = {};
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) {
          total[k] = make_float2(kNothing, 0);
          if (i + k * parts >= chunks) continue;
          const int from = first + (i + k * parts) * heads;
          total[k] = partials.totals[from];
          load<n>(x[k], partials.sums + Index{from} * width + d);
        }
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) sum.add(total[k], x[k]);
      }
    }
    totals[threadIdx.x] = sum.total;
    store<n>(sums + threadIdx.x * n, sum.y);
    __syncthreads();
    if (part == 0 && d < width) {
#pragma unroll 1
      for (int p = 1; p < min(parts, chunks); ++p) {
        const int other = p * threads + threadIdx.x;
        float x[n];
        load<n>(x, sums + other * n);
        sum.add(totals[other], x);
      }
      const float inverse = quotient<T>(1, sum.total.y);
      T* to = op.y.row<T>(span.first) + head * width + d;
#pragma unroll
      for (int j = 0; j < n; ++j) to[j] = from_float<T>(sum.y[j] * inverse);
      if (op.lse.data != nullptr && d == 0)
        op.lse.row<float>(span.first)[head] = (sum.total.x + log2f(sum.total.y)) * kLn2;
    }
    __syncthreads();
  }
}

// ---- the host's side -------------------------------------------------------------------------

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
    launch_chunks<Layout64<halves>>(stream, op, cut, partials);
  else if (op.heads.width == 128)
    launch_chunks<Layout128<halves>>(stream, op, cut, partials);
  else
    launch_chunks<Layout256<halves>>(stream, op, cut, partials);
}

template <class T, int n>
void launch_join(CudaStream& stream, const op::Attention& op, const Cut& cut,
                 const Partials& partials) {
  const dim3 grid(static_cast<unsigned>(op.heads.heads), static_cast<unsigned>(op.batch.count));
  int shift = 0;
  while (n << shift < op.heads.value_width && 1 << shift < kJoinThreads) ++shift;
  launch_early(stream, join<T, n>, grid, kJoinThreads, 0, op, cut, partials, shift);
}

/// Whether there is a kernel on tensor cores for the heads that the GPU has the memory for, and
/// rows lie as it needs them.
bool tensor_cores_serve(const CudaStream& stream, const op::Attention& op) {
  const Index width = op.heads.width;
  const std::size_t memory = width == 64    ? Layout64<2>::all_shared
                             : width == 128 ? Layout128<2>::all_shared
                                            : Layout256<2>::all_shared;
  return op.dtype() == DType::bf16 && width == op.heads.value_width &&
         (width == 64 || width == 128 || width == 256) && op.scale >= kLeastScale &&
         memory <= stream.properties().sharedMemPerBlockOptin &&
         aligned(8, op.q, op.k, op.v, op.key_state, op.value_state);
}

}  // namespace

void decode(CudaStream& stream, const op::Attention& op) {
  const Index ring = capacity(op), group = op.heads.heads / op.heads.kv_heads;
  const bool tensor_cores = tensor_cores_serve(stream, op);
  const int together =
      tensor_cores ? static_cast<int>(std::gcd(op.heads.kv_heads, Index{kWarps})) : 1;
  int shift = 8;  // which a block's warps go through in a few steps
  for (int heads = together; heads > 1; heads /= 2) --shift;
  // Chunks that begin before the first key, end behind the last or at the end of the ring come on
  // top of those that are full.
  const Index most =
      std::max<Index>(kFewChunks, std::min<Index>(ring >> kLongShift, kManyChunks)) + 4;
  Cut cut{.ring = Divisor(ring),
          .window = Divisor(std::min<Index>(op.window, std::numeric_limits<int>::max())),
          .shift = shift,
          .chunks = static_cast<int>(std::min(most, ceil_div(ring, Index{1} << shift))),
          .together = together,
          .shares = 1,
          .heads = !tensor_cores ? heads_of_general_block(op)
                   : group > 8   ? 16
                                 : 8,
          .group = static_cast<int>(group),
          .per_chunk = 1,
          .scale = static_cast<float>(op.scale * kLog2e)};
  cut.shares = static_cast<int>(ceil_div(group, Index{cut.heads}));
  cut.per_chunk = static_cast<int>(op.heads.kv_heads) / together * cut.shares;
  const Index rows = op.batch.count * cut.chunks * op.heads.heads;
  const Matrix sums(stream, DType::f32, rows, op.heads.value_width),
      totals(stream, DType::f32, rows, 2);
  const Partials partials{sums.row<float>(0), reinterpret_cast<float2*>(totals.row<float>(0))};
  if (!tensor_cores)
    attend_chunks_generally(stream, op, cut, partials);
  else if (cut.heads == 8)
    launch_chunks<1>(stream, op, cut, partials);
  else
    launch_chunks<2>(stream, op, cut, partials);
  visit_float(op.dtype(), [&]<class T>() {
    if (op.heads.value_width % 4 == 0)
      launch_join<T, 4>(stream, op, cut, partials);
    else
      launch_join<T, 1>(stream, op, cut, partials);
  });
}

}  // namespace samba::attention
