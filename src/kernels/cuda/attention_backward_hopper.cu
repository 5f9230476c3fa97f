#include <limits>
#include <vector>

#include "kernels/cuda/attention_backward_parts.cuh"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/vector.cuh"

// A block owns 128 keys of one kv head and meets the queries that see them in blocks of 64
// (128 where heads are narrow), the first ones first. Two of its warpgroups own 64 keys each:
// scores and slopes (gradients of weights, then of scores) are computed transposed, keys as rows,
// so that in registers they are the left factors of dv and dk; slopes also go through shared
// memory, for the block's part of dq, of which each takes half. The third warpgroup keeps the
// order: one thread copies tiles, one takes turns, one gives them on.
//
// The parts of dq of a block of queries come from blocks of keys that run at the same time. Each
// adds its own in its turn, keys in falling order, so that bits are the same every time: the first
// stores it, the last one adds it up and writes dq. Later keys are begun before earlier ones, and
// at the same time two blocks of neighbouring keys are two steps apart: turns are seldom waited
// for, and never in a circle, since who has the latest keys waits for nobody.
//
// Shah et al. 2024, "FlashAttention-3", section 3.2 and appendix B.1 (roles of warps in backward).
namespace samba::attention {
namespace {

constexpr int kKeys = 128;  ///< of a block of threads
/// Queries at a time: as many as accumulators have room for beside dk and dv.
template <int width>
constexpr int kQueries = width == 64 ? 128 : 64;
/// Blocks of queries in flight.
template <int width>
constexpr int kStages = width == 64 ? 3 : 4;
constexpr int kThreads = 384;
constexpr int kPanel = 64;              ///< columns of a tile in shared memory: rows of 128 bytes
constexpr int kKeyPanel = kKeys * 128;  ///< bytes
template <int width>
constexpr int kQueryPanel = kQueries<width> * 128;

/// Of one head and one block of queries: log sum exp as an exponent of two, infinite behind the
/// span's end so that weights are zero there; delta.
template <int width>
struct Statistics {
  float lse[kQueries<width>];
  float delta[kQueries<width>];
};

/// A block of keys of a span.
struct KeyTile {
  Index span;
  Index key;    ///< the first, of the span's rows
  Index block;  ///< number in the batch of the span's first block of queries
};

template <int width>
struct Work {
  op::AttentionBackward op;
  const KeyTile* tiles;
  Index tiles_count;
  Index blocks;                   ///< of queries in the batch
  Statistics<width>* statistics;  ///< [heads, blocks]
  float* parts;                   ///< [heads, blocks] of sums of dq, in the order of accumulators
  int* turns;                     ///< [heads, blocks]: how many have added their part
  int* next;                      ///< tile to be taken
  int group;                      ///< heads that share a kv head
  float scale;
  float exponent_scale;  ///< of scores, as exponents of two
};

/// What the block works on.
struct Task {
  int kv_head;  ///< -1: nothing more
  int row;      ///< in the batch of the span's first row
  int length;   ///< of the span
  int key;      ///< the first, of the span's rows
  int begin;    ///< blocks of queries of the span
  int end;
  Index block;  ///< number in the batch of the span's first
  Index position;
};

/// A block's part of dq.
struct Turn {
  float* part;  ///< the sum so far
  int head;
  int block;   ///< of the span's queries
  bool first;  ///< nobody has added a part before
  bool last;   ///< nobody will
};

/// Over `lanes` neighbouring lanes, in each of them.
template <int lanes>
__device__ float lane_sum(float x) {
#pragma unroll
  for (int lane = lanes / 2; lane > 0; lane /= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
  return x;
}

/// blockIdx.x is a block of queries, blockIdx.y a head; a lane takes 8 columns.
template <int width>
__global__ void summarize(const op::AttentionBackward op, const Tile* tiles,
                          Statistics<width>* statistics) {
  constexpr int kLanes = width / 8, kRows = 256 / kLanes;
  const Tile tile = tiles[blockIdx.x];
  const Span span = op.batch.spans[tile.span];
  const Index head = blockIdx.y;
  Statistics<width>& to = statistics[head * gridDim.x + blockIdx.x];
  const int lane = threadIdx.x % kLanes, first = threadIdx.x / kLanes;
  float sums[kQueries<width> / kRows];
#pragma unroll
  for (int i = 0; i < kQueries<width> / kRows; ++i) {
    const Index row = span.first + min(tile.first + first + i * kRows, span.length - 1);
    float y[8], dy[8];
    load<8>(y, op.y.row<Bf16>(row) + head * width + lane * 8);
    load<8>(dy, op.dy.row<Bf16>(row) + head * width + lane * 8);
    sums[i] = 0;
#pragma unroll
    for (int k = 0; k < 8; ++k) sums[i] += y[k] * dy[k];
  }
#pragma unroll
  for (int i = 0; i < kQueries<width> / kRows; ++i) {
    const int r = first + i * kRows;
    const bool inside = tile.first + r < span.length;
    const float sum = lane_sum<kLanes>(sums[i]);
    if (lane > 0) continue;
    to.lse[r] =
        inside ? op.lse.row<float>(span.first + tile.first + r)[head] * static_cast<float>(kLog2e)
               : std::numeric_limits<float>::infinity();
    to.delta[r] = inside ? sum : 0;
  }
}

struct Maps {
  CUtensorMap q, dy, k, v;
};

template <int width>
struct Shared {
  static constexpr int kPanels = width / kPanel;
  unsigned char keys[kPanels][kKeyPanel];
  unsigned char values[kPanels][kKeyPanel];
  unsigned char queries[kStages<width>][kPanels][kQueryPanel<width>];
  unsigned char dy[kStages<width>][kPanels][kQueryPanel<width>];
  unsigned char slopes[2][kQueries<width> / kPanel][kKeyPanel];  ///< [keys, queries]
  Statistics<width> statistics[kStages<width>];
  Task tasks[2];
  int last[kKeys];  ///< of the rows whose queries see each key
  Turn turns[2];
  std::uint64_t task_full[2], task_empty[2];
  std::uint64_t keys_full, values_full, keys_empty;
  std::uint64_t queries_full[kStages<width>], dy_full[kStages<width>], stage_empty[kStages<width>];
  std::uint64_t slopes_full[2];
  std::uint64_t turn_come[2], part_done[2], turn_given[2];
};

#if SAMBA_SM90A

using namespace hopper;

constexpr int kOwn = 64;  ///< keys of a warpgroup
/// Of a thread: 168 for each of three warpgroups are there.
constexpr int kOwnerRegisters = 240, kOrderRegisters = 24;

/// One arrival of a warp whose lanes are all done.
__device__ inline void warp_arrive(std::uint64_t* barrier, int lane) {
  __syncwarp();
  if (lane == 0) barrier_arrive(barrier);
}

/// to[0 .. 3] += a, b, c, d.
__device__ inline void add_to(float* to, float a, float b, float c, float d) {
  asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(a),
               "f"(b), "f"(c), "f"(d)
               : "memory");
}
__device__ inline int load_acquire(const int* from) {
  int value;
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
  return value;
}
/// Whoever acquires the value also sees what other threads had written before they arrived at a
/// barrier that this thread has waited for.
__device__ inline void store_release(int* to, int value) {
  asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(to), "r"(value) : "memory");
}

/// Writes accumulators [64, n * 2] as rows: `low` and `high` are the thread's two, null where there
/// is none, at its first columns' multiple of 32. Four lanes share a row; they trade so that each
/// writes eight neighbouring columns.
template <int n>
__device__ inline void store_rows(const float (&d)[n], float factor, Bf16* low, Bf16* high) {
  const bool odd = threadIdx.x & 1, upper = threadIdx.x & 2;
#pragma unroll
  for (int i = 0; i < n; i += 16)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      std::uint32_t w[4];
#pragma unroll
      for (int j = 0; j < 4; ++j)
        w[j] = pack_bf16(d[i + 4 * j + 2 * half] * factor, d[i + 4 * j + 2 * half + 1] * factor);
    // Lane l of four ends with the l-th word of each.
#pragma unroll
      for (int j = 0; j < 4; j += 2) {
        const std::uint32_t other = __shfl_xor_sync(0xffffffffu, odd ? w[j] : w[j + 1], 1);
        w[j] = odd ? other : w[j];
        w[j + 1] = odd ? w[j + 1] : other;
      }
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const std::uint32_t other = __shfl_xor_sync(0xffffffffu, upper ? w[j] : w[j + 2], 2);
        w[j] = upper ? other : w[j];
        w[j + 2] = upper ? w[j + 2] : other;
      }
      Bf16* to = half == 0 ? low : high;
      if (to != nullptr)
        *reinterpret_cast<uint4*>(to + i * 2 + threadIdx.x % 4 * 8) =
            make_uint4(w[0], w[1], w[2], w[3]);
    }
}

/// Calls f(task, its number) until there is no more.
template <int width, class F>
__device__ inline void each_task(Shared<width>& shared, const F& f) {
  for (int n = 0;; ++n) {
    barrier_wait(&shared.task_full[n % 2], n / 2 % 2);
    const Task& task = shared.tasks[n % 2];
    if (task.kv_head < 0) return;
    f(task, n);
  }
}

template <int width>
__device__ inline int steps_of(const Work<width>& work, const Task& task) {
  return work.group * (task.end - task.begin);
}

/// Calls f(head, block of queries) in the order of work.
template <int width, class F>
__device__ inline void each_step(const Work<width>& work, const Task& task, const F& f) {
  int head = task.kv_head * work.group, block = task.begin;
  for (int left = steps_of(work, task); left > 0; --left) {
    f(head, block);
    if (++block == task.end) {
      block = task.begin;
      ++head;
    }
  }
}

// ---- the warpgroups that own keys ------------------------------------------------------------

/// The state of a thread of such a warpgroup. Registers are scarce: what a step seldom needs it
/// reads from shared memory again.
template <int width>
struct Owner {
  static constexpr int kPanels = width / kPanel;
  Shared<width>& shared;
  const Work<width>& work;
  int index;          ///< of the warpgroup
  int lane;           ///< of the warp
  int own;            ///< of the block's keys the lower one of the thread's, 8 below the other
  unsigned step = 0;  ///< counts blocks of queries

  /// s [64 keys, queries] = a b^T.
  __device__ void multiply(float (&s)[kQueries<width> / 2],
                           const unsigned char (&a)[kPanels][kKeyPanel],
                           const unsigned char (&b)[kPanels][kQueryPanel<width>]) {
    const std::uint64_t left = describe_k_major(a[0] + index * kOwn * 128);
    const std::uint64_t right = describe_k_major(b[0]);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < width / 16; ++i)
      wgmma<0, 0>(s, left + (i / 4 * kKeyPanel >> 4) + k_major_step(i % 4),
                  right + (i / 4 * kQueryPanel<width> >> 4) + k_major_step(i % 4), i > 0);
    wgmma_commit();
  }

  /// d [64 keys, width] += a [64 keys, queries] b.
  __device__ void accumulate(float (&d)[width / 2],
                             const std::uint32_t (&a)[kQueries<width> / 16][4],
                             const unsigned char (&b)[kPanels][kQueryPanel<width>], bool add) {
    wgmma_fence();
    const std::uint64_t factor = describe_mn_major(b, kQueryPanel<width>);
#pragma unroll
    for (int i = 0; i < kQueries<width> / 16; ++i)
      wgmma<1>(d, a[i], factor + mn_major_step(i), add || i > 0);
    wgmma_commit();
  }

  /// dq [64, 64] = slopes keys: half of the width or, where that is all of it, of the queries.
  __device__ void multiply_keys(float (&dq)[32], unsigned stage) {
    const std::uint64_t left =
        describe_mn_major(shared.slopes[stage][width == 64 ? index : 0], kKeyPanel);
    const std::uint64_t right = describe_mn_major(shared.keys[width == 64 ? 0 : index], kKeyPanel);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kKeys / 16; ++i)
      wgmma<1, 1>(dq, left + mn_major_step(i), right + mn_major_step(i), i > 0);
    wgmma_commit();
  }

  /// Adds a part of dq when its turn has come.
  __device__ void give(float (&dq)[32], const Task& task, unsigned of_step) {
    barrier_wait(&shared.turn_come[of_step % 2], of_step / 2 % 2);
    const Turn& turn = shared.turns[of_step % 2];
    // [warpgroups, accumulators / 4, threads] of four.
    auto* part = reinterpret_cast<float4*>(turn.part) + index * (kQueries<width> * width / 8) +
                 own / 16 % 4 * 32 + lane;
    if (!turn.first && !turn.last) {
#pragma unroll
      for (int j = 0; j < 8; ++j)
        add_to(&part[j * 128].x, dq[4 * j], dq[4 * j + 1], dq[4 * j + 2], dq[4 * j + 3]);
    } else if (!turn.last) {
#pragma unroll
      for (int j = 0; j < 8; ++j)
        part[j * 128] = make_float4(dq[4 * j], dq[4 * j + 1], dq[4 * j + 2], dq[4 * j + 3]);
    } else {
      if (!turn.first)
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          const float4 sum = __ldcg(&part[j * 128]);
          dq[4 * j] += sum.x;
          dq[4 * j + 1] += sum.y;
          dq[4 * j + 2] += sum.z;
          dq[4 * j + 3] += sum.w;
        }
      const int low = turn.block * kQueries<width> + own - (width == 64 ? 0 : index * kOwn);
      const auto row_of = [&](int query) {
        const View& to = work.op.dq;
        return query < task.length ? to.row<Bf16>(task.row + query) + Index{turn.head} * width +
                                         (width == 64 ? 0 : index * kPanel)
                                   : nullptr;
      };
      store_rows(dq, work.scale, row_of(low), row_of(low + 8));
    }
    warp_arrive(&shared.part_done[of_step % 2], lane);
  }

  __device__ void work_on(const Task& task, int n) {
    for (const int key : {own, own + 8})
      shared.last[key] = static_cast<int>(
          min(last_seeing(work.op, task.position, task.key + key), Index{task.length}));
    __syncwarp();
    barrier_wait(&shared.keys_full, n % 2);
    barrier_wait(&shared.values_full, n % 2);
    float dk[width / 2], dv[width / 2];
    // The left factors of dv, and of dk in the next step, where the last one's dk and dq are due.
    // The first step's are of zeros, and of anything for a dq that nobody uses.
    std::uint32_t weights[kQueries<width> / 16][4], rounded[kQueries<width> / 16][4] = {};
    bool begun = false;
    each_step(work, task, [&](int, int block) {
      // The same in all lanes: what follows from it is computed once for a warp.
      const unsigned now = __shfl_sync(0xffffffffu, step, 0);
      const unsigned stage = now % kStages<width>, parity = now / kStages<width> % 2;
      const unsigned before = (now - 1) % kStages<width>, odd = now % 2;
      float scores[kQueries<width> / 2], slopes[kQueries<width> / 2], dq[32];
      if (begun) barrier_wait(&shared.slopes_full[odd ^ 1], (now - 1) / 2 % 2);
      multiply_keys(dq, odd ^ 1);
      barrier_wait(&shared.queries_full[stage], parity);
      multiply(scores, shared.keys, shared.queries[stage]);
      accumulate(dk, rounded, shared.queries[begun ? before : stage], begun);
      wgmma_wait<2>();
      hold(dq);
      if (begun) give(dq, task, now - 1);
      wgmma_wait<1>();
      hold(scores);
      weigh(scores, shared.statistics[stage]);
      const int query = block * kQueries<width>;
      const int first = own - lane / 4;  // of the warp's 16 keys
      if (query < task.key + first + 15 || query + kQueries<width> - 1 > shared.last[first])
        mask(scores, task, query);
      round(weights, scores);
      barrier_wait(&shared.dy_full[stage], parity);
      multiply(slopes, shared.values, shared.dy[stage]);
      accumulate(dv, weights, shared.dy[stage], begun);
      wgmma_wait<1>();
      hold(slopes);
      if (begun) warp_arrive(&shared.stage_empty[before], lane);
      slope(slopes, weights, shared.statistics[stage]);
      round(rounded, slopes);
      publish(rounded, odd);
      wgmma_wait<0>();
      begun = true;
      ++step;
    });
    float dq[32];
    const unsigned stage = (step - 1) % kStages<width>;
    barrier_wait(&shared.slopes_full[(step - 1) % 2], (step - 1) / 2 % 2);
    multiply_keys(dq, (step - 1) % 2);
    accumulate(dk, rounded, shared.queries[stage], true);
    wgmma_wait<0>();
    hold(dq);
    hold(dk);
    hold(dv);
    warp_arrive(&shared.stage_empty[stage], lane);
    warp_arrive(&shared.keys_empty, lane);
    give(dq, task, step - 1);
    const auto row_of = [&](const View& to, int key) {
      return key < task.length ? to.row<Bf16>(task.row + key) + Index{task.kv_head} * width
                               : nullptr;
    };
    const int low = task.key + own, high = low + 8;
    store_rows(dv, 1.0f, row_of(work.op.dv, low), row_of(work.op.dv, high));
    store_rows(dk, work.scale, row_of(work.op.dk, low), row_of(work.op.dk, high));
    warp_arrive(&shared.task_empty[n % 2], lane);
  }

  /// From scores to weights.
  __device__ void weigh(float (&s)[kQueries<width> / 2], const Statistics<width>& statistics) {
#pragma unroll
    for (int j = 0; j < kQueries<width> / 8; ++j) {
      const float2 lse = *reinterpret_cast<const float2*>(statistics.lse + 8 * j + lane % 4 * 2);
      s[4 * j] = exp2_fast(s[4 * j] * work.exponent_scale - lse.x);
      s[4 * j + 1] = exp2_fast(s[4 * j + 1] * work.exponent_scale - lse.y);
      s[4 * j + 2] = exp2_fast(s[4 * j + 2] * work.exponent_scale - lse.x);
      s[4 * j + 3] = exp2_fast(s[4 * j + 3] * work.exponent_scale - lse.y);
    }
  }

  /// Zeros where a query does not see a key.
  __device__ void mask(float (&s)[kQueries<width> / 2], const Task& task, int query) {
    const int low = task.key + own, low_last = shared.last[own], high_last = shared.last[own + 8];
#pragma unroll
    for (int j = 0; j < kQueries<width> / 8; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int q = query + lane % 4 * 2 + 8 * j + i % 2;
        const bool seen = i < 2 ? q >= low && q <= low_last : q >= low + 8 && q <= high_last;
        s[4 * j + i] = seen ? s[4 * j + i] : 0.0f;
      }
  }

  /// From the gradients of weights to those of scores.
  __device__ void slope(float (&s)[kQueries<width> / 2],
                        const std::uint32_t (&weights)[kQueries<width> / 16][4],
                        const Statistics<width>& statistics) {
#pragma unroll
    for (int j = 0; j < kQueries<width> / 8; ++j) {
      const float2 delta =
          *reinterpret_cast<const float2*>(statistics.delta + 8 * j + lane % 4 * 2);
      const std::uint32_t low = weights[j / 2][j % 2 * 2], high = weights[j / 2][j % 2 * 2 + 1];
      s[4 * j] = __uint_as_float(low << 16) * (s[4 * j] - delta.x);
      s[4 * j + 1] = __uint_as_float(low & 0xffff0000u) * (s[4 * j + 1] - delta.y);
      s[4 * j + 2] = __uint_as_float(high << 16) * (s[4 * j + 2] - delta.x);
      s[4 * j + 3] = __uint_as_float(high & 0xffff0000u) * (s[4 * j + 3] - delta.y);
    }
  }

  /// Accumulators as a left factor.
  __device__ void round(std::uint32_t (&to)[kQueries<width> / 16][4],
                        const float (&from)[kQueries<width> / 2]) {
#pragma unroll
    for (int i = 0; i < kQueries<width> / 4; ++i)
      to[i / 4][i % 4] = pack_bf16(from[2 * i], from[2 * i + 1]);
  }

  /// Shows the slopes to both warpgroups: rows are keys, swizzled.
  __device__ void publish(const std::uint32_t (&slopes)[kQueries<width> / 16][4], unsigned to) {
    const int key = own - lane / 4 + lane % 16;
    // Of the unit 2 i + lane / 16 in the row; i flips higher bits alone.
    const std::uint32_t unit =
        shared_address(shared.slopes[to][0]) + key * 128 + ((lane / 16 ^ key % 8) << 4);
#pragma unroll
    for (int i = 0; i < kQueries<width> / 16; ++i)
      store_blocks((unit ^ i % 4 << 5) + i / 4 * kKeyPanel, slopes[i]);
    fence_async_shared();
    warp_arrive(&shared.slopes_full[to], lane);
  }
};

// ---- the threads that keep the order ---------------------------------------------------------

/// The task of a number that was taken from work.next; kv_head -1 where there are no more.
template <int width>
__device__ inline Task task_of(const Work<width>& work, Index number) {
  Task task{};
  task.kv_head = -1;
  if (number >= work.tiles_count * work.op.heads.kv_heads) return task;
  const KeyTile tile = work.tiles[number % work.tiles_count];
  const Span span = work.op.batch.spans[tile.span];
  const Index last_key = min(tile.key + kKeys, span.length) - 1;
  const Index last = min(last_seeing(work.op, span.position, last_key), span.length - 1);
  return {static_cast<int>(number / work.tiles_count),
          static_cast<int>(span.first),
          static_cast<int>(span.length),
          static_cast<int>(tile.key),
          static_cast<int>(tile.key / kQueries<width>),
          static_cast<int>(last / kQueries<width> + 1),
          tile.block,
          span.position};
}

template <int width>
__device__ inline void copy_tiles(Shared<width>& shared, const Work<width>& work,
                                  const Maps& maps) {
  constexpr int kPanels = width / kPanel;
  Ring<kStages<width>> stage;
  for (int n = 0;; ++n) {
    const Task task = task_of(work, atomicAdd(work.next, 1));
    barrier_wait(&shared.task_empty[n % 2], n / 2 % 2 ^ 1);
    shared.tasks[n % 2] = task;
    barrier_arrive(&shared.task_full[n % 2]);
    if (task.kv_head < 0) return;
    // The first queries can be there before the last task is done with its keys.
    int until_keys = min(2, steps_of(work, task) - 1);
    each_step(work, task, [&](int head, int block) {
      const int row = task.row + block * kQueries<width>, col = head * width;
      barrier_wait(&shared.stage_empty[stage.at], stage.parity ^ 1);
      std::uint64_t* full = &shared.queries_full[stage.at];
      barrier_expect(full, kPanels * kQueryPanel<width> + sizeof(Statistics<width>));
      for (int p = 0; p < kPanels; ++p)
        tensor_load(shared.queries[stage.at][p], maps.q, full, col + p * kPanel, row);
      bulk_load(&shared.statistics[stage.at],
                work.statistics + head * work.blocks + task.block + block,
                sizeof(Statistics<width>), full);
      full = &shared.dy_full[stage.at];
      barrier_expect(full, kPanels * kQueryPanel<width>);
      for (int p = 0; p < kPanels; ++p)
        tensor_load(shared.dy[stage.at][p], maps.dy, full, col + p * kPanel, row);
      stage.advance();
      if (until_keys-- != 0) return;
      const int key_col = task.kv_head * width, key_row = task.row + task.key;
      barrier_wait(&shared.keys_empty, n % 2 ^ 1);
      barrier_expect(&shared.keys_full, kPanels * kKeyPanel);
      for (int p = 0; p < kPanels; ++p)
        tensor_load(shared.keys[p], maps.k, &shared.keys_full, key_col + p * kPanel, key_row);
      barrier_expect(&shared.values_full, kPanels * kKeyPanel);
      for (int p = 0; p < kPanels; ++p)
        tensor_load(shared.values[p], maps.v, &shared.values_full, key_col + p * kPanel, key_row);
    });
  }
}

/// How many blocks of keys come before the task's where a block of queries sums up dq: the block's
/// own keys are the first.
template <int width>
__device__ inline int turn_of(const Task& task, int block) {
  return block * kQueries<width> / kKeys - task.key / kKeys;
}
template <int width>
__device__ inline bool is_last(const Work<width>& work, const Task& task, int block) {
  return first_seen(work.op, task.position, Index{block} * kQueries<width>) >= task.key;
}

template <int width>
__device__ inline void take_turns(Shared<width>& shared, const Work<width>& work) {
  Ring<2> slope;
  each_task(shared, [&](const Task& task, int n) {
    each_step(work, task, [&](int head, int block) {
      const int turn = turn_of<width>(task, block);
      barrier_wait(&shared.turn_given[slope.at], slope.parity ^ 1);
      const int* turns = work.turns + head * work.blocks + task.block + block;
      while (load_acquire(turns) < turn) {
      }
      float* part =
          work.parts + (head * work.blocks + task.block + block) * (Index{kQueries<width>} * width);
      shared.turns[slope.at] = {part, head, block, turn == 0, is_last(work, task, block)};
      barrier_arrive(&shared.turn_come[slope.at]);
      slope.advance();
    });
    barrier_arrive(&shared.task_empty[n % 2]);
  });
}

template <int width>
__device__ inline void give_turns(Shared<width>& shared, const Work<width>& work) {
  Ring<2> slope;
  each_task(shared, [&](const Task& task, int n) {
    each_step(work, task, [&](int head, int block) {
      barrier_wait(&shared.part_done[slope.at], slope.parity);
      if (!is_last(work, task, block))
        store_release(work.turns + head * work.blocks + task.block + block,
                      turn_of<width>(task, block) + 1);
      barrier_arrive(&shared.turn_given[slope.at]);
      slope.advance();
    });
    barrier_arrive(&shared.task_empty[n % 2]);
  });
}

template <int width>
__device__ inline void init_barriers(Shared<width>& shared) {
  constexpr int kOwnerWarps = 8, kOrderWarps = 2;
  for (int i = 0; i < 2; ++i) {
    barrier_init(&shared.task_full[i], 1);
    barrier_init(&shared.task_empty[i], kOwnerWarps + kOrderWarps);
    barrier_init(&shared.slopes_full[i], kOwnerWarps);
    barrier_init(&shared.turn_come[i], 1);
    barrier_init(&shared.part_done[i], kOwnerWarps);
    barrier_init(&shared.turn_given[i], 1);
  }
  barrier_init(&shared.keys_full, 1);
  barrier_init(&shared.values_full, 1);
  barrier_init(&shared.keys_empty, kOwnerWarps);
  for (int i = 0; i < kStages<width>; ++i) {
    barrier_init(&shared.queries_full[i], 1);
    barrier_init(&shared.dy_full[i], 1);
    barrier_init(&shared.stage_empty[i], kOwnerWarps);
  }
  barrier_init_done();
}

#endif  // SAMBA_SM90A

template <int width>
__global__ void __launch_bounds__(kThreads, 1)
    differentiate([[maybe_unused]] const __grid_constant__ Maps maps,
                  [[maybe_unused]] const __grid_constant__ Work<width> work) {
#if SAMBA_SM90A
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& shared = *reinterpret_cast<Shared<width>*>(memory);
  const int warp = __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 32, 0);
  if (threadIdx.x == 0) init_barriers(shared);
  __syncthreads();
  if (warp < 8) {
    take_registers<kOwnerRegisters>();
    const int lane = static_cast<int>(threadIdx.x) % 32;
    Owner<width> owner{shared, work, warp / 4, lane, warp * 16 + lane / 4};
    each_task(shared, [&](const Task& task, int n) { owner.work_on(task, n); });
  } else {
    give_registers<kOrderRegisters>();
    if (threadIdx.x % 32 == 0) {
      if (warp == 8) copy_tiles(shared, work, maps);
      if (warp == 9) take_turns(shared, work);
      if (warp == 10) give_turns(shared, work);
    }
  }
#endif
}

template <int width>
void differentiate_heads(CudaStream& stream, const op::AttentionBackward& op,
                         std::span<const Span> spans) {
  std::vector<Tile> query_tiles;
  std::vector<KeyTile> key_tiles;
  for (std::size_t i = 0; i < spans.size(); ++i) {
    const auto span = static_cast<Index>(i), block = std::ssize(query_tiles);
    for (Index first = 0; first < spans[i].length; first += kQueries<width>)
      query_tiles.push_back({span, first});
    for (Index key = (spans[i].length - 1) / kKeys * kKeys; key >= 0; key -= kKeys)
      key_tiles.push_back({span, key, block});
  }
  const Index heads = op.heads.heads, blocks = std::ssize(query_tiles);
  const Matrix statistics(stream, DType::f32, heads * blocks,
                          sizeof(Statistics<width>) / sizeof(float));
  const Matrix parts(stream, DType::f32, heads * blocks, kQueries<width> * width);
  const Matrix turns(stream, DType::i32, 1, heads * blocks + 1);
  clear(stream, turns);
  launch(stream, summarize<width>,
         dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(heads)), 256, 0, op,
         stream.resident(std::span<const Tile>(query_tiles)),
         reinterpret_cast<Statistics<width>*>(statistics.row<float>(0)));
  const Work<width> work{
      .op = op,
      .tiles = stream.resident(std::span<const KeyTile>(key_tiles)),
      .tiles_count = std::ssize(key_tiles),
      .blocks = blocks,
      .statistics = reinterpret_cast<Statistics<width>*>(statistics.row<float>(0)),
      .parts = parts.row<float>(0),
      .turns = turns.row<std::int32_t>(0) + 1,
      .next = turns.row<std::int32_t>(0),
      .group = static_cast<int>(op.heads.heads / op.heads.kv_heads),
      .scale = static_cast<float>(op.scale),
      .exponent_scale = static_cast<float>(op.scale * kLog2e)};
  const Maps maps{hopper::tensor_map(op.q, kPanel, kQueries<width>),
                  hopper::tensor_map(op.dy, kPanel, kQueries<width>),
                  hopper::tensor_map(op.k, kPanel, kKeys), hopper::tensor_map(op.v, kPanel, kKeys)};
  const Index tasks = work.tiles_count * op.heads.kv_heads;
  const auto grid = static_cast<unsigned>(std::min<Index>(tasks, stream.multiprocessors()));
  launch(stream, differentiate<width>, grid, kThreads, sizeof(Shared<width>), maps, work);
}

}  // namespace

bool differentiate_on_hopper(CudaStream& stream, const op::AttentionBackward& op,
                             std::span<const Span> spans) {
  const Index width = op.heads.width;
  if (!stream.hopper() || op.dtype() != DType::bf16 || op.heads.value_width != width ||
      (width != 64 && width != 128))
    return false;
  for (const ConstView view : {op.q, op.k, op.v, op.dy})
    if (!hopper::can_map(view)) return false;
  if (!aligned(8, op.y, op.dq, op.dk, op.dv)) return false;
  if (width == 64)
    differentiate_heads<64>(stream, op, spans);
  else
    differentiate_heads<128>(stream, op, spans);
  return true;
}

}  // namespace samba::attention
