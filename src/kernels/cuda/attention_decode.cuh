#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/attention_parts.cuh"

// One query of each head against a sequence's ring: how the work is cut.
//
// The ring's rows are cut into chunks, the longer the more keys are seen. A block takes one chunk
// of neighbouring kv heads; a second kernel joins the chunks in order (Dao et al. 2023,
// "Flash-Decoding"). Launches depend on numbers of sequences and on capacities, never on positions:
// these change while a graph is replayed.
//
// Where little is seen, these kernels run straight on from their beginning to their end, and what
// takes the time is fetching their instructions: loops stay loops, and everything is there once.
namespace samba::attention {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * 32;

/// Remainders without a division, which is long where numbers may be large.
struct Divisor {
  int value;
  std::uint64_t inverse;  ///< (2^64 - 1) / value, rounded down

  explicit Divisor(Index n)
      : value(static_cast<int>(n)), inverse(~std::uint64_t{0} / static_cast<std::uint64_t>(n)) {}
  __device__ int remainder(Index x) const {
    // What x * inverse / 2^64 is rounded down is the quotient or one less.
    const auto quotient = static_cast<unsigned>(__umul64hi(static_cast<std::uint64_t>(x), inverse));
    const auto n = static_cast<unsigned>(value);
    const unsigned rest = static_cast<unsigned>(x) - quotient * n;
    return static_cast<int>(rest >= n ? rest - n : rest);
  }
};

/// How the work of a call is cut.
struct Cut {
  Divisor ring;    ///< rows of a ring
  Divisor window;  ///< those longer than an int are as good as none
  int shift;       ///< a chunk has at least 2^shift rows
  int chunks;      ///< of a sequence, at most
  int together;    ///< kv heads of a block: 1, 2 or 4; its other warps take other rows
  int shares;      ///< blocks that share a kv head's query heads
  int heads;       ///< query heads of a kv head in a block, at most
  int group;       ///< query heads of a kv head
  int per_chunk;   ///< blocks of a chunk
  float scale;     ///< of scores, which are exponents of two then
};

/// The chunks leave their sums here, at (span * chunks + chunk) * H + head.
struct Partials {
  float* sums;     ///< V weighted sums of values each
  float2* totals;  ///< largest score as exponent of two, sum of weights
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
  int first = 0;
  int last = 0;
  int shift;  ///< chunks are 2^shift rows

  __device__ explicit Sight(const Cut& cut) : shift(cut.shift) {}
  __device__ Sight(const op::Attention& op, const Cut& cut, const Span& span) : Sight(cut) {
    if (span.slot < 0) return;
    const Index position = span.position;
    // The window is no longer than the ring: what would lie further back does not exist.
    const int before = op.chunked ? cut.window.remainder(position)
                                  : static_cast<int>(min(position, Index{cut.window.value - 1}));
    last = cut.ring.remainder(position);
    first = last - before;
    if (first < 0) first += cut.ring.value;
#pragma unroll 1
    while (too_many_chunks(before, shift)) ++shift;
  }
  __device__ bool wraps() const { return first > last; }
  /// The first chunk of those that begin behind the last row, where what is seen wraps.
  __device__ int high() const { return max(first >> shift, (last >> shift) + 1); }
  /// Chunks with rows that are seen, and the i-th of them.
  __device__ int chunks(const Cut& cut) const {
    const int low = (last >> shift) + 1;
    return wraps() ? low + ((cut.ring.value - 1) >> shift) + 1 - high() : low - (first >> shift);
  }
  __device__ int chunk_at(int i) const {
    const int low = (last >> shift) + 1;
    return i + (!wraps() ? first >> shift : i < low ? 0 : high() - low);
  }
};

/// A chunk of one span, and heads: a block's piece of work.
struct Chunk {
  int span;   ///< -1: there is none
  int token;  ///< the span's row
  int slot;
  int index;  ///< among the span's
  Sight sight;
  int begin, end;  ///< rows of the ring; all are seen but those between sight.last and .first
  int kv_head;     ///< the first
  int heads;       ///< query heads of each kv head, from `head` on; those of the next
  int head;        ///< cut.group behind
  bool leaves;     ///< writes the token's own rows of the kv heads to the ring

  /// That of this number, found by a whole warp: 32 spans at a time. Reads nothing but spans.
  __device__ Chunk(const op::Attention& op, const Cut& cut, int number)
      : span(-1), token(0), slot(-1), sight(cut) {
    const int lane = threadIdx.x % 32, count = static_cast<int>(op.batch.count);
    const int chunk_number = number / cut.per_chunk, rest = number - chunk_number * cut.per_chunk;
    int before = 0;
#pragma unroll 1
    for (int base = 0; base < count; base += 32) {
      int chunks = 0;
      if (base + lane < count) {
        const Span mine = op.batch.spans[base + lane];
        token = static_cast<int>(mine.first);
        slot = static_cast<int>(mine.slot);
        sight = Sight(op, cut, mine);
        if (decodes(op, mine)) chunks = sight.chunks(cut);
      }
      int ends = chunks;
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const int other = __shfl_up_sync(0xffffffffu, ends, step);
        if (lane >= step) ends += other;
      }
      ends += before;
      const unsigned beyond = __ballot_sync(0xffffffffu, ends > chunk_number);
      if (beyond != 0) {
        const int at = __ffs(static_cast<int>(beyond)) - 1;
        const auto tell = [&](int& x) { x = __shfl_sync(0xffffffffu, x, at); };
        int start = ends - chunks;
        tell(start);
        tell(token);
        tell(slot);
        tell(sight.first);
        tell(sight.last);
        tell(sight.shift);
        span = base + at;
        index = chunk_number - start;
        break;
      }
      before = __shfl_sync(0xffffffffu, ends, 31);
    }
    if (span < 0) return;
    begin = sight.chunk_at(index) << sight.shift;
    end = min(begin + (1 << sight.shift), cut.ring.value);
    const int share = rest / cut.shares, first_head = (rest - share * cut.shares) * cut.heads;
    leaves = begin <= sight.last && sight.last < end && slot >= 0 && first_head == 0;
    if (!sight.wraps()) {
      begin = max(begin, sight.first);
      end = min(end, sight.last + 1);
    }
    kv_head = share * cut.together;
    heads = min(cut.heads, cut.group - first_head);
    head = kv_head * cut.group + first_head;
  }

  // Without branches, for each of which a compiler would take && and ||.

  /// Whether a row from begin on is one to attend to, and whether `count` from `row` on are.
  __device__ bool sees(int row) const {
    return (row < end) & ((row <= sight.last) | (row >= sight.first));
  }
  __device__ bool sees_all(int row, int count) const {
    return (row + count <= end) & ((row + count - 1 <= sight.last) | (row >= sight.first));
  }
};

/// Blocks of the kernel that goes through the chunks, of which a multiprocessor takes `resident` at
/// once: each takes pieces that many apart.
inline unsigned grid_of(CudaStream& stream, const op::Attention& op, const Cut& cut, int resident) {
  const Index pieces = op.batch.count * cut.chunks * cut.per_chunk;
  return static_cast<unsigned>(std::min<Index>(pieces, Index{stream.multiprocessors()} * resident));
}

/// The chunks' sums, for any type and width: attention_decode_general.cu. How many query heads a
/// block takes, so that they fit its memory.
int heads_of_general_block(const op::Attention&);
void attend_chunks_generally(CudaStream&, const op::Attention&, const Cut&, const Partials&);

}  // namespace samba::attention
