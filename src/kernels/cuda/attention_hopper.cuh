#pragma once

#include <algorithm>
#include <cfloat>
#include <climits>
#include <numeric>
#include <vector>

#include "kernels/cuda/attention_hopper_jobs.cuh"
#include "kernels/cuda/mma.cuh"

// Attention of tiles of bf16 queries on Hopper's tensor cores: Dao et al. 2022, "FlashAttention",
// algorithm 1, arranged as Shah et al. 2024, "FlashAttention-3", sections 3.1 and 3.2.
//
// A block is one warpgroup that copies and two or three that compute, 64 queries each. Heads that
// share a kv head lie side by side in a tile, so that it spans few tokens and sees few keys.
// It takes pieces of work one after another from a counter, so that the next piece's copies run
// while this one's results are written. Of a piece, blocks of keys are visited from the last to the
// first; the scores of one block are computed while the values of the block before are weighted,
// and the warpgroups take turns, so that one's products run during the other's exponentials.
namespace samba::attention {
namespace {

#if SAMBA_SM90A

/// A weight may grow to 2^kSlack before its row's shift follows it.
constexpr float kSlack = 16;
/// Limits of rows whose largest score is so far below 0 that the limit would be too, so that each
/// block is looked at more closely, and of rows that are not the job's, which must not matter.
constexpr int kAlways = INT_MIN, kNever = INT_MAX;

/// Hardware barriers behind that of the copying threads: one for each warpgroup's turn, and one for
/// the warps of each.
constexpr int kTurnBarrier = 2, kWriteBarrier = 5;

// ---- computing -------------------------------------------------------------------------------

/// A description of shared memory `step` further: addresses stay within its lower half.
__device__ inline std::uint64_t at_step(std::uint64_t description, std::uint64_t step) {
  return (description & ~std::uint64_t{0xffffffff}) |
         (static_cast<std::uint32_t>(description) + static_cast<std::uint32_t>(step));
}

/// The queries of one warpgroup; a thread has parts of two rows, as wgmma deals them out.
template <class L>
struct Computer {
  static constexpr int kScores = L::keys / 2;

  const op::Attention& op;
  const Maps& maps;
  Shared<L> shared;
  int group;   ///< warpgroup, 0 ..
  int thread;  ///< of the warpgroup
  float scale;

  float scores[kScores];
  std::uint32_t weights[L::keys / 16][4];
  float sums[L::width / 2];
  float shift[2];           ///< of the rows' exponents
  float total[2];           ///< of the weights in the thread's own columns
  int first[2], last[2];    ///< keys that the rows see, from the job's base on
  int all_first, all_last;  ///< those that every row of the warp sees
  int limit[2];             ///< bits of the raw score above which the row's shift must follow it
  Ring<L::query_stages> queries;
  Ring<L::job_stages> jobs;
  Ring<L::stages> keys, values;

  __device__ Computer(const op::Attention& op, const Maps& maps, const Shared<L>& shared, int group,
                      int thread)
      : op(op), maps(maps), shared(shared), group(group), thread(thread) {
    scale = static_cast<float>(op.scale * kLog2e);
  }

  /// Waits for this warpgroup's turn; passes it on.
  __device__ void wait_turn() const { named_barrier_wait(kTurnBarrier + group, 256); }
  __device__ void pass_turn() const {
    named_barrier_arrive(kTurnBarrier + (group + 1 == L::consumers ? 0 : group + 1), 256);
  }
  /// One arrival for each warp.
  __device__ void release(std::uint64_t& barrier) const {
    __syncwarp();
    if (thread % 32 == 0) barrier_arrive(&barrier);
  }

  __device__ void start_scores() {
    const std::uint64_t q =
        describe_k_major(shared.queries + queries.at * L::query_bytes + group * 64 * 128);
    const std::uint64_t k = describe_k_major(shared.keys + keys.at * L::block_bytes);
    hold(scores);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < L::width / 16; ++i)
      wgmma<0, 0>(scores, at_step(q, (i / 4) * (L::rows * 128 / 16) + k_major_step(i % 4)),
                  at_step(k, (i / 4) * (L::keys * 128 / 16) + k_major_step(i % 4)), i > 0);
    wgmma_commit();
  }
  __device__ void start_sums() {
    const std::uint64_t v =
        describe_mn_major(shared.values + values.at * L::block_bytes, L::keys * 128);
    hold(sums);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < L::keys / 16; ++i) wgmma<1>(sums, weights[i], v + mn_major_step(i), 1);
    wgmma_commit();
  }

  __device__ void find_limits(const Job& job) {
    const auto limits = [&](int row, int& from, int& to) {
      const Index position = job.position + row / maps.pack;
      Index begin = op.chunked ? job.first : max(position - op.window + 1, Index{0});
      if (op.chunked && position - begin >= op.window) {
        // A later chunk. Where several fit into a tile numbers are small, and so is the division:
        // that of large ones is a call, which would end the overlap of products.
        if (op.window >= L::rows)
          begin += op.window;
        else
          begin = position - static_cast<int>(position - begin) % static_cast<int>(op.window);
      }
      from = static_cast<int>(max(job.there, begin) - job.base);
      to = static_cast<int>(position - job.base);
    };
    const int row = group * 64 + thread / 32 * 16;
    int unused;
    limits(row, unused, all_last);
    limits(row + 15, all_first, unused);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int own = row + thread % 32 / 4 + r * 8;
      limits(own, first[r], last[r]);
      limit[r] = own / maps.pack < job.tokens ? kAlways : kNever;
    }
  }

  /// Whether all rows of the warp see all keys of a block.
  __device__ bool sees_all(int block) const {
    const int base = block * L::keys;
    return base >= all_first && base + L::keys - 1 <= all_last;
  }

  /// Scores of keys that a row does not see become -inf. Few blocks have both ends of what is seen.
  __device__ void mask(int block) {
    const int base = block * L::keys, own = base + thread % 4 * 2;
    if (base < all_first) {
#pragma unroll
      for (int i = 0; i < kScores; ++i)
        if (i / 4 * 8 + i % 2 < first[i % 4 / 2] - own) scores[i] = -INFINITY;
    }
    if (base + L::keys - 1 > all_last) {
#pragma unroll
      for (int i = 0; i < kScores; ++i)
        if (i / 4 * 8 + i % 2 > last[i % 4 / 2] - own) scores[i] = -INFINITY;
    }
  }

  /// Whether this thread has a score above its row's limit. Floats that are not negative are
  /// ordered as their bits are, and negative ones have smaller bits than they: so integers, of
  /// which one instruction compares three, find what is above a limit that is not negative.
  __device__ bool passes() const {
    int most[4] = {kAlways + 1, kAlways + 1, kAlways + 1, kAlways + 1};
#pragma unroll
    for (int i = 0; i < kScores; i += 2)
      most[i % 8 / 2] =
          max(max(most[i % 8 / 2], __float_as_int(scores[i])), __float_as_int(scores[i + 1]));
    return (max(most[0], most[2]) > limit[0]) | (max(most[1], most[3]) > limit[1]);
  }

  /// Lets the shifts follow the largest scores, and the weights' sums; what the others are to be
  /// multiplied by.
  __device__ void follow(float (&factor)[2]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float most = -INFINITY;
#pragma unroll
      for (int i = 0; i < kScores; i += 4)
        most = fmaxf(most, fmaxf(scores[i + 2 * r], scores[i + 2 * r + 1]));
      most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
      most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2)) * scale;
      const float next = most > shift[r] + kSlack ? most : shift[r];
      factor[r] = next == shift[r] ? 1 : exp2_fast(shift[r] - next);
      shift[r] = next;
      total[r] *= factor[r];
      if (limit[r] != kNever)
        limit[r] = next < -kSlack ? kAlways : __float_as_int(__fdividef(next + kSlack, scale));
    }
  }

  /// From scores to weights, still as floats.
  __device__ void exponentials() {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float sum[2] = {};  // two, so that none waits for the other
#pragma unroll
      for (int i = 0; i < kScores; i += 4)
#pragma unroll
        for (int j = 2 * r; j < 2 * r + 2; ++j) {
          scores[i + j] = exp2_fast(scores[i + j] * scale - shift[r]);
          sum[j % 2] += scores[i + j];
        }
      total[r] += sum[0] + sum[1];
    }
  }

  /// From a block's scores to weights. Returns whether all before is to be multiplied by `factor`.
  ///
  /// Any shift serves that keeps weights within the range of floats. So it follows a row's largest
  /// score only where a weight would pass 2^kSlack, which after a row's first keys is rare: most
  /// blocks neither need to know their largest score nor change what was added before.
  __device__ bool weigh(int block, float (&factor)[2]) {
    if (!__any_sync(0xffffffffu, !sees_all(block) | passes())) [[likely]] {
      exponentials();
      return false;
    }
    mask(block);
    follow(factor);
    exponentials();
    return __any_sync(0xffffffffu, factor[0] != 1 || factor[1] != 1);
  }
  __device__ void round_weights() {
#pragma unroll
    for (int i = 0; i < L::keys / 16; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j)
        weights[i][j] = pack_bf16(scores[i * 8 + j * 2], scores[i * 8 + j * 2 + 1]);
  }
  __device__ void scale_sums(const float (&factor)[2]) {
#pragma unroll
    for (int i = 0; i < L::width / 2; ++i) sums[i] *= factor[i % 4 / 2];
  }

  /// Where unit `unit` of 16 bytes of a row of this warp's results stands, in the place of its
  /// queries.
  __device__ std::byte* unit_of(int row, int unit) const {
    return shared.queries + queries.at * L::query_bytes + unit / 8 * (L::rows * 128) +
           (group * 64 + thread / 32 * 16 + row) * 128 + (unit % 8 ^ row % 8) * 16;
  }

  /// Writes the results. They go through shared memory, so that a warp writes whole rows.
  __device__ void write(const Job& job) {
    const int lane = thread % 32;
    // Lane l < 16 knows where row l of the warp belongs.
    const int row = group * 64 + thread / 32 * 16 + lane % 16;
    const int token = row / maps.pack, head = job.head + row % maps.pack;
    Bf16* y = token < job.tokens ? op.y.row<Bf16>(job.row + token) + head * op.heads.value_width +
                                       job.slice * L::width
                                 : nullptr;
    float inverse[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float sum = total[r];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      inverse[r] = __fdividef(1, sum);
      // Lane l < 16 needs that of lane l % 8 * 4.
      const float lse = (shift[r] + log2f(sum)) * kLn2;
      const float own = __shfl_sync(0xffffffffu, lse, lane % 8 * 4);
      if (lane / 8 == r && y != nullptr && job.slice == 0 && op.lse.data != nullptr)
        op.lse.row<float>(job.row + token)[head] = own;
    }
    // All warps have multiplied with the queries.
    named_barrier_wait(kWriteBarrier + group, 128);
#pragma unroll
    for (int c = 0; c < L::width / 16; ++c) {
      const float* d = sums + c * 8;
      const std::uint32_t blocks[4] = {pack_bf16(d[0] * inverse[0], d[1] * inverse[0]),
                                       pack_bf16(d[2] * inverse[1], d[3] * inverse[1]),
                                       pack_bf16(d[4] * inverse[0], d[5] * inverse[0]),
                                       pack_bf16(d[6] * inverse[1], d[7] * inverse[1])};
      store_blocks(unit_of(lane % 16, c * 2 + lane / 16), blocks);
    }
    __syncwarp();
    constexpr int kUnits = L::width / 8;
#pragma unroll
    for (int i = 0; i < kUnits / 2; ++i) {
      const int place = i * 32 + lane, r = place / kUnits, unit = place % kUnits;
      auto* to = reinterpret_cast<Bf16*>(
          __shfl_sync(0xffffffffu, reinterpret_cast<unsigned long long>(y), r));
      if (to != nullptr)
        *reinterpret_cast<uint4*>(to + unit * 8) =
            *reinterpret_cast<const uint4*>(unit_of(r, unit));
    }
    fence_async_shared();  // the next queries are written by another kind of copy
  }

  __device__ void attend(const Job& job) {
    Barriers<L>& barriers = *shared.barriers;
    // The same in all lanes, which the compiler should know: then counters and descriptions of
    // tiles are kept once for a warp.
    const int blocks = __shfl_sync(0xffffffffu, job.blocks, 0);
    float factor[2];
    find_limits(job);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      shift[r] = -FLT_MAX;  // below all scores, and weights of keys that are not seen are 0
      total[r] = 0;
    }
#pragma unroll
    for (int i = 0; i < L::width / 2; ++i) sums[i] = 0;

    barrier_wait(&barriers.keys_full[keys.at], keys.parity);
    wait_turn();
    start_scores();
    pass_turn();
    wgmma_wait<0>();
    hold(scores);
    release(barriers.keys_empty[keys.at]);
    keys.advance();
    mask(blocks - 1);
    follow(factor);
    exponentials();
    round_weights();
    if (blocks > 1) barrier_wait(&barriers.keys_full[keys.at], keys.parity);
    for (int n = blocks - 2; n >= 0; --n) {
      wait_turn();
      start_scores();
      barrier_wait(&barriers.values_full[values.at], values.parity);
      start_sums();
      pass_turn();
      wgmma_wait<1>();
      hold(scores);
      release(barriers.keys_empty[keys.at]);
      keys.advance();
      const bool followed = weigh(n, factor);
      // The exponentials are to run during the products. The compiler sees nothing that would keep
      // it from waiting first, but does not move code across this loop.
      hold(scores);
      if (n > 0) barrier_wait(&barriers.keys_full[keys.at], keys.parity);
      wgmma_wait<0>();
      hold(sums);
      release(barriers.values_empty[values.at]);
      values.advance();
      if (followed) scale_sums(factor);
      round_weights();
    }
    barrier_wait(&barriers.values_full[values.at], values.parity);
    start_sums();
    wgmma_wait<0>();
    hold(sums);
    release(barriers.values_empty[values.at]);
    values.advance();
    write(job);
    release(barriers.queries_empty[queries.at]);
    queries.advance();
  }

  __device__ void run() {
    if (group == L::consumers - 1) pass_turn();
    while (true) {
      barrier_wait(&shared.barriers->queries_full[queries.at], queries.parity);
      const Job& job = shared.jobs[jobs.at];
      jobs.advance();
      if (__shfl_sync(0xffffffffu, job.tokens, 0) == 0) break;
      attend(job);
    }
    // The first turn of all was nobody's to pass on.
    if (group == 0) wait_turn();
  }
};

#endif  // SAMBA_SM90A

template <class L>
__global__ void __launch_bounds__(L::threads, 1)
    attend(const op::Attention op, const Piece* pieces, int count, int* next,
           const __grid_constant__ Maps maps) {
#if SAMBA_SM90A
  extern __shared__ __align__(16) std::byte memory[];
  const Shared<L> shared(memory);
  Barriers<L>& barriers = *shared.barriers;
  if (threadIdx.x == 0) {
    constexpr int kWarps = L::consumers * 4;
    for (int i = 0; i < L::query_stages; ++i) {
      barrier_init(&barriers.queries_full[i], 1);
      barrier_init(&barriers.queries_empty[i], kWarps);
    }
    for (int i = 0; i < L::stages; ++i) {
      barrier_init(&barriers.keys_full[i], 1);
      barrier_init(&barriers.keys_empty[i], kWarps);
      barrier_init(&barriers.values_full[i], 1);
      barrier_init(&barriers.values_empty[i], kWarps);
    }
    barrier_init_done();
  }
  __syncthreads();
  const int group = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
  if (group == 0) {
    give_registers<L::copy_registers>();
    Copier<L>{op, maps, shared, static_cast<int>(threadIdx.x)}.run(pieces, count, next);
  } else {
    take_registers<L::registers>();
    Computer<L>(op, maps, shared, group - 1, threadIdx.x % 128).run();
  }
#endif
}

// ---- the host's side -------------------------------------------------------------------------

/// The map of a ring's rows, a slot's in a plane.
inline CUtensorMap ring_map(ConstView ring, Index cols, int box_rows) {
  return hopper::tensor_map(ring.data, cols, ring.cols / cols, cols, ring.rows, ring.stride, 64,
                            box_rows);
}

/// Packs of heads that go through a span's tiles together, so that their keys stay in the L2 cache;
/// whole kv heads' worth.
inline Index packs_together(const op::Attention& op, const Span& span, Index packs_of_kv_head) {
  constexpr Index kCache = Index{24} << 20;
  const Index keys = std::min(op.window, span.position + span.length) + 2048;
  const Index bytes = keys * (op.heads.width + op.heads.value_width) * 2;
  return std::clamp(kCache / bytes, Index{1}, op.heads.kv_heads) * packs_of_kv_head;
}

/// The heads of a kv head that share a tile of so many rows: as many as divide both.
inline Index pack_of(const op::Attention& op, Index rows) {
  return std::gcd(op.heads.heads / op.heads.kv_heads, rows);
}

template <class L>
void attend_tiles(CudaStream& stream, const op::Attention& op, const Span* spans) {
  const Index slices = op.heads.value_width / L::width, group = op.heads.heads / op.heads.kv_heads;
  const Index pack = pack_of(op, L::rows), packs = op.heads.heads / pack * slices;
  std::vector<Piece> pieces;
  Index jobs = 0;
  for (Index i = 0; i < op.batch.count; ++i) {
    const Span& span = spans[i];
    if (decodes(op, span)) continue;
    const Index tiles = ceil_div(span.length, L::rows / pack), there = first_there(op, span);
    const Index base = std::max(there, first_key(op, span.position)) / L::keys * L::keys;
    pieces.push_back({.span = span,
                      .there = there,
                      .chunk = op.chunked ? first_key(op, span.position) : 0,
                      .base = base,
                      .place = op.key_state.empty() ? 0 : base % capacity(op),
                      .first_job = jobs,
                      .tiles = static_cast<int>(tiles),
                      .packs = static_cast<int>(packs_together(op, span, group / pack * slices))});
    jobs += tiles * packs;
  }
  Maps maps{};
  maps.slices = static_cast<int>(slices);
  maps.group = static_cast<int>(group);
  maps.pack = static_cast<int>(pack);
  maps.queries = hopper::tensor_map(op.q.data, L::width, op.heads.heads, L::width, op.q.rows,
                                    op.q.stride, 64, maps.pack, L::rows / maps.pack);
  maps.keys = hopper::tensor_map(op.k, 64, L::keys);
  maps.values = hopper::tensor_map(op.v, 64, L::keys);
  maps.key_ring = maps.value_ring = maps.keys;
  if (!op.key_state.empty()) {
    maps.ring_rows = capacity(op);
    maps.key_ring = ring_map(op.key_state, op.k.cols, L::keys);
    maps.value_ring = ring_map(op.value_state, op.v.cols, L::keys);
  }
  const Matrix next(stream, DType::i32, 1, 1);
  clear(stream, next);
  const Piece* device_pieces = stream.resident(std::span<const Piece>(pieces));
  const auto blocks = static_cast<unsigned>(std::min<Index>(jobs, stream.multiprocessors()));
  launch(stream, attend<L>, blocks, L::threads, L::shared, op, device_pieces,
         static_cast<int>(pieces.size()), next.row<std::int32_t>(0), maps);
}

}  // namespace
}  // namespace samba::attention
