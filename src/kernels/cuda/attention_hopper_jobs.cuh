#pragma once

#include "kernels/cuda/attention_parts.cuh"
#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/vector.cuh"

// Attention on Hopper (attention_hopper.cuh): how its work is cut into jobs, what lies in shared
// memory, and the warpgroup that finds the jobs and copies what they read.
namespace samba::attention {

/// The jobs of one span: tiles of queries of a few heads and one slice of values. What takes
/// divisions of large numbers is computed by the host: in the kernel they are calls.
struct Piece {
  Span span;
  Index there;  ///< position of the first key in the ring or among the span's rows
  Index chunk;  ///< position of the first key of the first query's chunk
  Index base;   ///< position of the first block of keys
  Index place;  ///< of that in the ring
  Index first_job;
  int tiles;
  int packs;  ///< packs of heads and slices that go through all tiles before the next do
};

namespace {

/// How a kernel is laid out. Slices: columns of values that one job computes.
template <int width_, int keys_, int consumers_, int stages_, int query_stages_, int registers_,
          int copy_registers_>
struct Layout {
  static constexpr int width = width_;                ///< of keys, and of a slice of values
  static constexpr int keys = keys_;                  ///< of a block
  static constexpr int consumers = consumers_;        ///< warpgroups that compute
  static constexpr int stages = stages_;              ///< blocks on their way
  static constexpr int query_stages = query_stages_;  ///< jobs on their way, and their queries
  static constexpr int registers = registers_;        ///< of a thread that computes
  static constexpr int copy_registers = copy_registers_;
  /// One more than queries: when the next job is found, copying threads may still read the last.
  static constexpr int job_stages = query_stages + 1;
  static constexpr int rows = 64 * consumers;
  static constexpr int threads = 128 * (consumers + 1);
  static constexpr int block_bytes = keys * width * 2;
  static constexpr int query_bytes = rows * width * 2;
  static constexpr std::size_t shared =
      query_stages * query_bytes + 2 * stages * block_bytes + 2048;
};

constexpr Index kSmall = Index{1} << 30;  ///< sums of two are within 32 bits

/// What the host knows of a call.
struct Maps {
  CUtensorMap queries, keys, values, key_ring, value_ring;
  Index ring_rows;
  int slices;  ///< of the values of a head
  int group;   ///< heads of a kv head
  int pack;    ///< those of them that share a tile; row r of it is of token r / pack
};

/// One piece of work, as the copying warpgroup finds it.
struct Job {
  Span span;
  Index row;       ///< of the first token
  Index position;  ///< its position
  Index base;      ///< position of the first block of keys, a multiple of their number
  Index there;     ///< position of the first key in the ring or among the span's rows
  Index first;     ///< position of the first key that the first query sees
  Index place;     ///< of the key at base in the ring
  int tokens;      ///< 0: there is no more work
  bool whole;      ///< all blocks of keys lie within the span's rows
  int blocks;      ///< of keys
  int head;        ///< the first
  int kv_head;
  int slice;
};

#if SAMBA_SM90A

using namespace hopper;

/// The hardware barrier at which the copying threads meet.
constexpr int kCopyBarrier = 1;

template <class L>
struct Barriers {
  std::uint64_t queries_full[L::query_stages], queries_empty[L::query_stages];
  std::uint64_t keys_full[L::stages], keys_empty[L::stages];
  std::uint64_t values_full[L::stages], values_empty[L::stages];
};

template <class L>
struct Shared {
  std::byte* queries;
  std::byte* keys;
  std::byte* values;
  Barriers<L>* barriers;
  Job* jobs;

  __device__ explicit Shared(std::byte* memory) {
    const std::uint32_t address = shared_address(memory);
    queries = memory + ((address + 1023) / 1024 * 1024 - address);
    keys = queries + L::query_stages * L::query_bytes;
    values = keys + L::stages * L::block_bytes;
    barriers = reinterpret_cast<Barriers<L>*>(values + L::stages * L::block_bytes);
    jobs = reinterpret_cast<Job*>(barriers + 1);
  }
};

template <class L>
struct Copier {
  const op::Attention& op;
  const Maps& maps;
  Shared<L> shared;
  int thread;

  /// What number `number` is.
  __device__ Job find(const Piece* pieces, int count, int number) const {
    Job job{};
    int low = 0, high = count;  // the last piece that begins at or before the number
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (pieces[middle].first_job <= number ? low : high) = middle;
    }
    const Piece& piece = pieces[low];
    const int slices = maps.slices, tile_tokens = L::rows / maps.pack;
    const int all = static_cast<int>(op.heads.heads) / maps.pack * slices;
    const int local = number - static_cast<int>(piece.first_job);
    if (local >= piece.tiles * all) return job;
    const int turn = local / (piece.tiles * piece.packs),
              rest = local % (piece.tiles * piece.packs);
    const int packs = min(piece.packs, all - turn * piece.packs);
    const int tile = piece.tiles - 1 - rest / packs, pack = turn * piece.packs + rest % packs;
    job.head = pack / slices * maps.pack;
    job.slice = pack % slices;
    job.kv_head = job.head / maps.group;
    const Index before = Index{tile} * tile_tokens;
    job.span = piece.span;
    job.tokens = static_cast<int>(min(Index{tile_tokens}, job.span.length - before));
    job.row = job.span.first + before;
    job.position = job.span.position + before;
    job.there = piece.there;
    job.first = max(job.position - op.window + 1, Index{0});
    if (op.chunked) {
      const Index inside = job.position - piece.chunk;
      job.first = piece.chunk;
      if (inside >= op.window)
        job.first += op.window > kSmall ? op.window
                                        : inside - static_cast<unsigned>(inside) %
                                                       static_cast<unsigned>(op.window);
    }
    job.base = max(job.there, job.first) / L::keys * L::keys;
    job.place = piece.place + job.base - piece.base;
    job.blocks = static_cast<int>((job.position + job.tokens - 1 - job.base) / L::keys) + 1;
    job.whole = job.base >= max(job.there, job.span.position) &&
                job.base + Index{job.blocks} * L::keys <= job.span.position + job.span.length;
    return job;
  }

  __device__ void load(std::byte* to, const CUtensorMap& map, std::uint64_t* barrier, int rows,
                       int col, Index row, Index plane) const {
    barrier_expect(barrier, rows * L::width * 2);
#pragma unroll
    for (int i = 0; i < L::width / 64; ++i)
      tensor_load(to + i * rows * 128, map, barrier, col + i * 64, static_cast<int>(row),
                  static_cast<int>(plane));
  }

  /// Copies block n of a job's keys or values from `own` rows of the span and from the ring's;
  /// rows that nobody may see become zeros.
  __device__ void load_block(std::byte* to, std::uint64_t* full, std::uint64_t* empty, int parity,
                             const Job& job, int n, ConstView own, ConstView ring,
                             const CUtensorMap& own_map, const CUtensorMap& ring_map,
                             int col) const {
    const Span& span = job.span;
    const Index base = job.base + Index{n} * L::keys;
    // Positions from the block's base on: the first key that is there, the span's, the end.
    const int there = static_cast<int>(max(job.there - base, Index{0}));
    const int own_from = static_cast<int>(min(max(span.position - base, Index{0}), Index{L::keys}));
    const int end = static_cast<int>(min(span.position + span.length - base, Index{L::keys}));
    Index place = job.place + Index{n} * L::keys;
    if (own_from > 0)
      while (place >= maps.ring_rows) place -= maps.ring_rows;
    const bool whole = there == 0 && end == L::keys;
    if (whole && (own_from == 0 || (own_from == L::keys && place + L::keys <= maps.ring_rows))) {
      if (thread != 0) return;
      barrier_wait(empty, parity ^ 1);
      if (own_from == 0)
        load(to, own_map, full, L::keys, col, span.first + base - span.position, 0);
      else
        load(to, ring_map, full, L::keys, col, place, span.slot);
      return;
    }
    if (thread == 0) barrier_wait(empty, parity ^ 1);
    named_barrier_wait(kCopyBarrier, 128);
    constexpr int kUnits = L::width / 8;
#pragma unroll 1
    for (int i = thread; i < L::keys * kUnits; i += 128) {
      const int row = i / kUnits, unit = i % kUnits;
      uint4 bytes = make_uint4(0, 0, 0, 0);
      if (row >= there && row < end) {
        const Bf16* from;
        if (row >= own_from) {
          from = own.row<Bf16>(span.first + base - span.position + row);
        } else {
          Index at = place + row;
          while (at >= maps.ring_rows) at -= maps.ring_rows;
          from = ring.row<Bf16>(span.slot) + at * own.cols;
        }
        bytes = *reinterpret_cast<const uint4*>(from + col + unit * 8);
      }
      *reinterpret_cast<uint4*>(to + unit / 8 * (L::keys * 128) + row * 128 +
                                (unit % 8 ^ row % 8) * 16) = bytes;
    }
    fence_async_shared();
    named_barrier_wait(kCopyBarrier, 128);
    if (thread == 0) barrier_arrive(full);
  }

  __device__ void run(const Piece* pieces, int count, int* next) const {
    Barriers<L>& barriers = *shared.barriers;
    Ring<L::query_stages> queries;
    Ring<L::job_stages> jobs;
    Ring<L::stages> keys, values;
    int number = static_cast<int>(blockIdx.x);
    while (true) {
      const Job& job = shared.jobs[jobs.at];
      if (thread == 0) {
        const Job found = find(pieces, count, number);
        std::uint64_t* full = &barriers.queries_full[queries.at];
        barrier_wait(&barriers.queries_empty[queries.at], queries.parity ^ 1);
        shared.jobs[jobs.at] = found;
        if (found.tokens > 0)
          load(shared.queries + queries.at * L::query_bytes, maps.queries, full, L::rows, 0,
               found.head, found.row);
        else
          barrier_arrive(full);
        number = static_cast<int>(gridDim.x) + atomicAdd(next, 1);
      }
      named_barrier_wait(kCopyBarrier, 128);
      queries.advance();
      jobs.advance();
      if (job.tokens == 0) return;
      if (job.whole && thread != 0) {
        keys.advance(job.blocks);
        values.advance(job.blocks);
        continue;
      }
      const int key_col = job.kv_head * L::width;
      const int value_col = (job.kv_head * maps.slices + job.slice) * L::width;
      for (int n = job.blocks; n >= 0; --n) {
        if (n > 0) {
          load_block(shared.keys + keys.at * L::block_bytes, &barriers.keys_full[keys.at],
                     &barriers.keys_empty[keys.at], keys.parity, job, n - 1, op.k, op.key_state,
                     maps.keys, maps.key_ring, key_col);
          keys.advance();
        }
        if (n < job.blocks) {
          load_block(shared.values + values.at * L::block_bytes, &barriers.values_full[values.at],
                     &barriers.values_empty[values.at], values.parity, job, n, op.v, op.value_state,
                     maps.values, maps.value_ring, value_col);
          values.advance();
        }
      }
    }
  }
};

#endif  // SAMBA_SM90A

}  // namespace
}  // namespace samba::attention
