#include <algorithm>
#include <limits>
#include <type_traits>

#include "kernels/cuda/causal_conv1d.cuh"
#include "kernels/cuda/few_rows.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/norm.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/rope.cuh"
#include "kernels/cuda/vector.cuh"

// Decoding's products: what takes the time is to read the weight, once. So that the memory never
// waits, a kernel has no more blocks than fit into half of the GPU, and each goes from tile to tile
// without a pause, its copies some steps ahead. The other half is for the blocks of the kernel
// behind it: they begin early (launch_early), fetch their first weights, and wait.
//
// Code that runs once costs a miss of the instruction cache every 128 bytes: so there is one copy
// of everything, and little is unrolled.

namespace samba::few_rows {
namespace {

/// Steps of a warp whose weights shared memory has room for: bytes under way are what keeps the
/// memory busy.
template <int warps>
constexpr int kSlots = warps > 8 ? 4 : 8;
/// Of those on their way to a block that waits: more would stand in the way of what the kernels
/// before it still read.
constexpr int kAtOnce = 3;
/// Blocks of a kernel that waits and asks for more than that: the L2 cache, for what has no slot.
constexpr int kFewBlocks = 32;
constexpr int kPitch = 20;  // of rows of kLeft sums: neighbouring lanes then write different banks
constexpr int kResidentWarps = 16;  // of a kernel, on a multiprocessor

template <int warps>
constexpr int kSlotBytes = warps * kSlots<warps> * kLeft * kStep * static_cast<int>(sizeof(Bf16));
/// Of the sums of a tile.
template <int row_tiles, int warps>
constexpr int kSumBytes = warps * 8 * row_tiles * kPitch * static_cast<int>(sizeof(float));
/// Tiles whose sums there is room for: two in turn save a barrier.
template <int row_tiles>
constexpr int kSums = row_tiles <= 2 ? 2 : 1;

template <int row_tiles, int warps, bool own>
std::size_t shared_bytes(const op::Linear& op) {
  constexpr int kRound = warps * kStep;
  const int row =
      own ? ceil_div(static_cast<int>(op.w.cols), kRound) * kRound * static_cast<int>(sizeof(Bf16))
          : 0;
  return static_cast<std::size_t>(kSlotBytes<warps> +
                                  kSums<row_tiles> * kSumBytes<row_tiles, warps> + row);
}

/// How the L2 cache treats what is read once: it goes before all else.
__device__ std::uint64_t evicted_first() {
  std::uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

/// copy_async under that policy, to an address of shared memory.
__device__ void copy_async(std::uint32_t to, const Bf16* from, bool there, std::uint64_t policy) {
  asm volatile(
      "{\n"
      ".reg .pred absent;\n"
      "setp.eq.u32 absent, %2, 0;\n"
      "cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, absent, %3;\n"
      "}" ::"r"(to),
      "l"(__cvta_generic_to_global(from)), "r"(static_cast<unsigned>(there)), "l"(policy)
      : "memory");
}

/// Places of op::RmsNorm's warps that a warp here can take.
constexpr int kPlaces = 2;

/// Brings x's only row to shared memory: normed, where there is a norm, to the bits of op::RmsNorm.
/// Zeros fill the last round of the warps' steps.
template <int warps>
class Row {
 public:
  /// Reads the norm's weights, while there is nothing else to do.
  __device__ explicit Row(const op::Linear& op)
      : op_(op),
        inputs_(static_cast<int>(op.x.cols)),
        places_(ceil_div(inputs_, 32 * kNormRun * kNormKept)) {
    if (op.norm.empty()) return;
    each_run([&](int place, int run, int column) {
      load<kNormRun>(weights_[place][run], op.norm.row<float>(0) + column);
    });
  }

  __device__ void bring(Bf16* to) const {
    const int end = ceil_div(inputs_, warps * kStep) * warps * kStep;
    for (int i = inputs_ / 8 + threadIdx.x; i < end / 8; i += warps * 32)
      reinterpret_cast<uint4*>(to)[i] = uint4{0, 0, 0, 0};
    if (op_.norm.empty())
      copy(to);
    else
      norm(to);
    __syncthreads();
  }

 private:
  __device__ void copy(Bf16* to) const {
#pragma unroll 2
    for (int i = threadIdx.x; i < inputs_ / 8; i += warps * 32)
      reinterpret_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(op_.x.row<Bf16>(0))[i];
  }

  /// Calls f(place, run, column) for all that this thread has.
  template <class F>
  __device__ void each_run(const F& f) const {
#pragma unroll
    for (int i = 0; i < kPlaces; ++i) {
      const int place = threadIdx.x / 32 + i * warps;
#pragma unroll
      for (int run = 0; run < kNormKept; ++run) {
        const int column = (places_ * 32 * run + place * 32 + threadIdx.x % 32) * kNormRun;
        if (place < places_ && column < inputs_) f(i, run, column);
      }
    }
  }

  __device__ void norm(Bf16* to) const {
    __shared__ float squares[kPlaces * warps];
    float x[kPlaces][kNormKept][kNormRun], sums[kPlaces] = {};
    each_run([&](int place, int run, int column) {
      load<kNormRun>(x[place][run], op_.x.row<float>(0) + column);
    });
    each_run([&](int place, int run, int) { add_squares(sums[place], x[place][run]); });
#pragma unroll
    for (int i = 0; i < kPlaces; ++i) {
      const float sum = warp_sum(sums[i]);
      if (threadIdx.x % 32 == 0) squares[threadIdx.x / 32 + i * warps] = sum;
    }
    __syncthreads();
    // Places that there are not add nothing.
    float sum = 0;
#pragma unroll
    for (const float part : squares) sum += part;
    const float scale = norm_scale(sum, inputs_, op_.eps);
    each_run([&](int place, int run, int column) {
      float y[kNormRun];
#pragma unroll
      for (int i = 0; i < kNormRun; ++i)
        y[i] = weights_[place][run][i] * normal_of<Bf16>(x[place][run][i], scale);
      store<kNormRun>(to + column, y);
    });
  }

  const op::Linear& op_;
  int inputs_;
  int places_;
  float weights_[kPlaces][kNormKept][kNormRun];
};

struct NoRow {
  __device__ explicit NoRow(const op::Linear&) {}
};
struct NoAngles {};

/// The rows of w of a tile, twice 8 neighbours, and what becomes of its sums: they stay apart, or
/// the first of them are gates of the others, or pairs that are rotated, or each goes through a
/// convolution.
struct Left {
  enum Use { apart, gates, pairs, convolved };
  Use use = apart;
  int first[2];
  int count[2];
  int head = 1;  ///< columns of a head that is rotated

  __device__ Left(const op::Linear& op, int tile) {
    const int outputs = static_cast<int>(op.y.cols);
    first[0] = tile * kLeft, first[1] = first[0] + 8;
    if (op.gated) {
      use = gates;
      first[0] = tile * 8, first[1] = outputs + tile * 8;
    } else if (first[0] < static_cast<int>(op.rope.x.cols)) {
      use = pairs;
      head = static_cast<int>(op.rope.x.cols) / static_cast<int>(op.rope.heads);
      first[0] -= first[0] % head / 2;
      first[1] = first[0] + head / 2;
    } else if (first[0] < static_cast<int>(op.conv.x.cols)) {
      use = convolved;
    }
    count[0] = min(8, outputs - first[0]);
    count[1] = op.gated ? count[0] : min(8, outputs - first[1]);
  }
  /// The row of w, which but for a gated y is the column of y, and whether it exists.
  __device__ int row(int l) const { return l < 8 ? first[0] + l : first[1] + l - 8; }
  __device__ bool real(int l) const { return l < 8 ? l < count[0] : l - 8 < count[1]; }
};

/// Where a warp's weights come from, step by step and tile by tile. A lane reads from the slots
/// what it has sent there, and nothing else: of two rows 8 neighbours, in one access each.
template <int warps>
class Source {
 public:
  __device__ Source(const op::Linear& op, const std::byte* slots, int tiles)
      : op_(op),
        tiles_(tiles),
        policy_(evicted_first()),
        begin_(static_cast<std::uint32_t>(__cvta_generic_to_shared(slots)) +
               threadIdx.x / 32 * kSlots<warps> * kStepBytes + threadIdx.x % 32 * 16),
        to_(begin_),
        from_(begin_),
        tile_(static_cast<int>(blockIdx.x)) {
    aim();
  }
  /// Sends the next step on its way, to the slot behind the last one.
  __device__ void send() {
    const bool there = column_ < static_cast<int>(op_.w.cols);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      copy_async(to_ + half * kStepBytes / 2, weight_[half], there && real_[half], policy_);
      weight_[half] += warps * kStep;
    }
    copy_async_commit();
    advance(to_);
    column_ += warps * kStep;
    if (--rounds_ > 0) return;
    tile_ += static_cast<int>(gridDim.x);
    aim();
  }
  /// Asks the L2 cache for as many steps as there are slots, behind those that were sent.
  __device__ void prefetch_behind() const {
    const int inputs = static_cast<int>(op_.w.cols), l = static_cast<int>(threadIdx.x);
    const int first = (ceil_div(inputs, warps * kStep) - rounds_) * warps * kStep;
    const int count = min(kSlots<warps> * warps * kStep, inputs - first);
    const Left left(op_, tile_);
    if (tile_ < tiles_ && l < kLeft && left.real(l))
      prefetch_run(op_.w.row<Bf16>(left.row(l)) + first, count * sizeof(Bf16));
  }
  /// The next step, once it has come.
  __device__ void get(uint4& high, uint4& low) {
    copy_async_wait<kSlots<warps> - 1>();
    high = load_shared(from_), low = load_shared(from_ + kStepBytes / 2);
    advance(from_);
  }

 private:
  static constexpr int kStepBytes = kLeft * kStep * static_cast<int>(sizeof(Bf16));

  __device__ static uint4 load_shared(std::uint32_t from) {
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(from)
                 : "memory");
    return v;
  }
  __device__ void advance(std::uint32_t& slot) const {
    slot += kStepBytes;
    if (slot == begin_ + kSlots<warps> * kStepBytes) slot = begin_;
  }
  __device__ void aim() {
    const Left left(op_, tile_);
    const int group = threadIdx.x % 32 / 4;
    column_ = static_cast<int>(threadIdx.x) / 32 * kStep + threadIdx.x % 4 * 8;
    rounds_ = ceil_div(static_cast<int>(op_.w.cols), warps * kStep);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const bool real = tile_ < tiles_ && group < left.count[half];
      real_[half] = real;
      weight_[half] = op_.w.row<Bf16>(real ? left.first[half] + group : 0) + column_;
    }
  }

  const op::Linear& op_;
  int tiles_;
  std::uint64_t policy_;
  std::uint32_t begin_;  ///< of the slots, for this lane
  std::uint32_t to_;     ///< where the next step is sent
  std::uint32_t from_;   ///< and where it is read
  int tile_;
  int column_;  ///< of what is sent next
  int rounds_;  ///< of the tile, that are still to be sent
  bool real_[2];
  const Bf16* weight_[2];
};

/// Asks for what the convolutions behind a tile read.
__device__ void prefetch_convolutions(const op::Linear& op, const Left& left, int row, int count) {
  const int rows = static_cast<int>(op.conv.w.cols) - 1;
#pragma unroll 1
  for (int i = threadIdx.x; i < count * rows; i += blockDim.x)
    if (const Index slot = op.conv.batch.spans[row + i / rows].slot;
        slot >= 0 && !op.conv.state.empty())
      prefetch(op.conv.state.row<float>(slot) + i % rows * op.conv.x.cols + left.first[0]);
  if (threadIdx.x < kLeft) prefetch(op.conv.w.row<float>(left.row(threadIdx.x)));
}

/// A block makes tiles of 16 columns of y (of a gated one 8) for up to 8 * row_tiles rows; its
/// warps share the inputs, a step of them in turn, and add up in order. A weight is a row of the
/// tensor core's left factor, so rows of x are columns of its right one: each by itself. Inside a
/// step the core's order of inputs is free, as long as both factors have it.
///
/// `own`: x has one row, which the block keeps in shared memory.
template <int row_tiles, int warps, bool own, class Y, class Angles>
__global__ __launch_bounds__(warps * 32, (row_tiles <= 2 ? 32 : 16) / warps) void few_rows(
    const __grid_constant__ op::Linear op, const __grid_constant__ Angles angles, const int tiles) {
  constexpr int kRows = 8 * row_tiles;
  extern __shared__ __align__(16) std::byte memory[];
  let_next_begin();
  Source<warps> source(op, memory, tiles);
  [[maybe_unused]] std::conditional_t<own, Row<warps>, NoRow> only(op);
#pragma unroll 1
  for (int i = 0; i < kSlots<warps>; ++i) {
    if (i >= kAtOnce && gridDim.x > kFewBlocks) copy_async_wait<kAtOnce - 1>();
    source.send();
  }
  if (gridDim.x <= kFewBlocks) source.prefetch_behind();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, t = lane % 4;
  const int n0 = static_cast<int>(blockIdx.y) * kRows;
  const int inputs = static_cast<int>(op.w.cols);
  const int count = min(kRows, static_cast<int>(op.y.rows) - n0);
  {
    const Left left(op, static_cast<int>(blockIdx.x));
    if (left.use == Left::convolved) prefetch_convolutions(op, left, n0, count);
  }
  wait_for_previous();

  auto* row = reinterpret_cast<Bf16*>(memory + kSlotBytes<warps> +
                                      kSums<row_tiles> * kSumBytes<row_tiles, warps>);
  if constexpr (own) only.bring(row);
  const Bf16* input[row_tiles];
  bool used[row_tiles];
#pragma unroll
  for (int n = 0; n < row_tiles; ++n) {
    used[n] = n * 8 + group < count;
    input[n] = own ? row : op.x.row<Bf16>(used[n] ? n0 + n * 8 + group : 0);
  }

  // Rows come from memory, so they are read a step ahead, unless the block keeps them. They are the
  // same for each tile.
  constexpr int kAhead = own ? 0 : 1;
  struct Inputs {
    uint4 of_row[row_tiles];
  };
  int round_begin = 0;
  const auto next_inputs = [&](Inputs& x) {
    const int column = round_begin + warp * kStep + t * 8;
#pragma unroll
    for (int n = 0; n < row_tiles; ++n)
      if constexpr (own)
        x.of_row[n] = *reinterpret_cast<const uint4*>(input[n] + column);
      else
        x.of_row[n] = used[n] && column < inputs
                          ? *reinterpret_cast<const uint4*>(input[n] + column)
                          : uint4{0, 0, 0, 0};
    round_begin += warps * kStep;
    if (round_begin >= inputs) round_begin = 0;
  };
  Inputs ahead[kAhead + 1];
#pragma unroll
  for (int i = 0; i < kAhead; ++i) next_inputs(ahead[i]);

  // What a sum is added to. A thread's first is read before the sum is made.
  const bool adds = op.add || !op.bias.empty();
  const auto addend = [&](const Left& left, int i) {
    const int l = i % kLeft;
    if (!adds || i >= count * kLeft || !left.real(l)) return 0.0f;
    return op.add ? to_float(op.y.row<Y>(n0 + i / kLeft)[left.row(l)])
                  : op.bias.row<float>(0)[left.row(l)];
  };

  constexpr int kThreads = warps * 32;
  const int rounds = ceil_div(inputs, warps * kStep);
  int turn = 0;
#pragma unroll 1
  for (int tile = static_cast<int>(blockIdx.x); tile < tiles;
       tile += static_cast<int>(gridDim.x), ++turn) {
    float sum[row_tiles][4] = {};
    // Warps finish tiles in turn, whole warps, for those of pairs meet.
    const int place = (static_cast<int>(threadIdx.x) + turn * 32) % kThreads;
    const float first_addend = adds ? addend(Left(op, tile), place) : 0;
#pragma unroll 1
    for (int round = 0; round < rounds; ++round) {
      uint4 high, low;
      source.get(high, low);
      next_inputs(ahead[kAhead]);
#pragma unroll
      for (int n = 0; n < row_tiles; ++n) multiply_step(sum[n], high, low, ahead[0].of_row[n]);
      // To the same slot, whose weights are multiplied.
      source.send();
#pragma unroll
      for (int i = 0; i < kAhead; ++i) ahead[i] = ahead[i + 1];
    }

    auto* partial = reinterpret_cast<float*>(memory + kSlotBytes<warps> +
                                             turn % kSums<row_tiles> * kSumBytes<row_tiles, warps>);
#pragma unroll
    for (int n = 0; n < row_tiles; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        partial[(warp * kRows + n * 8 + t * 2 + i % 2) * kPitch + group + i / 2 * 8] = sum[n][i];
    // Of two in turn, who reads the sums arrives at the next barrier before anybody writes over
    // them.
    __syncthreads();
    const Left left(op, tile);
#pragma unroll 1
    for (int i = place; i < ceil_div(count * kLeft, 32) * 32; i += kThreads) {
      const int l = i % kLeft, column = left.row(l);
      const bool exists = i < count * kLeft && left.real(l);
      Y* const y = op.y.row<Y>(n0 + (exists ? i / kLeft : 0));
      float value = i == place ? first_addend : addend(left, i);
      if (exists) {
#pragma unroll
        for (int other = 0; other < warps; ++other)
          value += partial[(other * kRows + i / kLeft) * kPitch + l];
      }
      if constexpr (std::is_same_v<Y, float>) {
        if (exists) y[column] = value;
      } else {
        // Sums are rounded before they meet, as where another kernel reads them.
        float a = to_float(from_float<Y>(value)), b = __shfl_down_sync(0xffffffffu, a, 8);
        if (!exists) continue;
        if (left.use == Left::gates) {
          if (l < 8) y[column] = from_float<Y>(b * silu<Y>(a));
          continue;
        }
        if constexpr (std::is_same_v<Angles, Frequencies>)
          if (left.use == Left::pairs) {
            if (l >= 8) continue;
            const int pair = left.first[0] % left.head + l;
            rotation_of(angles.turns[pair], position_of(op.rope, n0 + i / kLeft), op.rope.inverse)
                .turn(a, b);
            y[left.first[1] + l] = from_float<Y>(b);
          }
        y[column] = from_float<Y>(a);
        if (left.use == Left::convolved)
          op.conv.y.row<Y>(n0 + i / kLeft)[column] =
              from_float<Y>(TokenConvolution(op.conv, n0 + i / kLeft, column).run<Y>(op.conv, a));
      }
    }
    if constexpr (kSums<row_tiles> == 1) __syncthreads();
  }
  copy_async_wait<0>();
}

template <int row_tiles, int warps, bool own>
void launch(CudaStream& stream, const op::Linear& op) {
  const Index tiles = ceil_div(op.outputs(), Index{kLeft});
  const Index most = Index{stream.multiprocessors()} * (kResidentWarps / warps);
  const dim3 grid(static_cast<unsigned>(std::min(tiles, most)),
                  static_cast<unsigned>(ceil_div(op.y.rows, 8 * row_tiles)));
  const std::size_t shared = shared_bytes<row_tiles, warps, own>(op);
  if (!op.rope.x.empty()) {
    Frequencies angles;
    fill_frequencies(op.rope.base, op.rope.x.cols / op.rope.heads / 2, angles.turns);
    return launch_early(stream, few_rows<row_tiles, warps, own, Bf16, Frequencies>, grid,
                        warps * 32, shared, op, angles, static_cast<int>(tiles));
  }
  visit_float(op.y.dtype, [&]<class Y>() {
    launch_early(stream, few_rows<row_tiles, warps, own, Y, NoAngles>, grid, warps * 32, shared, op,
                 NoAngles{}, static_cast<int>(tiles));
  });
}

/// Whether each block keeps x's only row itself. The bits are the same.
template <int warps>
bool keeps_row(const CudaStream& stream, const op::Linear& op) {
  return op.x.rows == 1 &&
         shared_bytes<1, warps, true>(op) <= stream.properties().sharedMemPerBlockOptin;
}

template <int warps>
void launch(CudaStream& stream, const op::Linear& op) {
  const auto takes = [&]<int row_tiles>() {
    return op.y.rows > 4 * row_tiles &&
           shared_bytes<row_tiles, warps, false>(op) <= stream.properties().sharedMemPerBlockOptin;
  };
  if (keeps_row<warps>(stream, op)) return launch<1, warps, true>(stream, op);
  // More warps have no registers for more.
  if constexpr (warps <= 8)
    if (takes.template operator()<8>()) return launch<8, warps, false>(stream, op);
  if (takes.template operator()<4>()) return launch<4, warps, false>(stream, op);
  if (takes.template operator()<2>()) return launch<2, warps, false>(stream, op);
  launch<1, warps, false>(stream, op);
}

/// Calls f.template operator()<warps>() with those that w's products take.
template <class F>
auto visit_warps(ConstView w, const F& f) {
  switch (warps_for(w)) {
    case 4: return f.template operator()<4>();
    case 8: return f.template operator()<8>();
    default: return f.template operator()<16>();
  }
}

/// Whether few_rows() rotates too: pairs of eight neighbours then lie in one tile. The bits are the
/// same.
bool rotates_itself(const op::Linear& op) {
  const Index head = op.rope.x.cols / op.rope.heads;
  return op.y.dtype == DType::bf16 && head % kLeft == 0 && head / 2 <= kMostPairs;
}

/// Whether few_rows() convolves too: spans are single tokens. The bits are the same.
bool convolves_itself(const op::Linear& op) {
  return op.y.dtype == DType::bf16 && op.conv.batch.longest == 1 && op.conv.x.cols % kLeft == 0;
}

}  // namespace

bool takes(const CudaStream& stream, const op::Linear& op) {
  if (op.dtype() != DType::bf16 || op.x.rows > kMostRows || !aligned(8, op.w)) return false;
  if (op.w.rows > std::numeric_limits<int>::max() / 2) return false;
  if (op.norm.empty()) return aligned(8, op.x);
  const bool keeps = visit_warps(op.w, [&]<int warps>() {
    return keeps_row<warps>(stream, op) && norm_warps(op.w.cols) <= kPlaces * warps;
  });
  return keeps && aligned(kNormRun, op.x, op.norm);
}

void multiply(CudaStream& stream, const op::Linear& call) {
  op::Linear op = call;
  const auto upload = [&](Batch& batch) {
    batch.spans = stream.resident(std::span(batch.spans, static_cast<std::size_t>(batch.count)));
  };
  const bool rotates = !op.rope.x.empty(), convolves = !op.conv.x.empty();
  if (rotates && rotates_itself(op))
    upload(op.rope.batch);
  else
    op.rope = {};
  if (convolves && convolves_itself(op))
    upload(op.conv.batch);
  else
    op.conv = {};
  visit_warps(op.w, [&]<int warps>() { launch<warps>(stream, op); });
  if (rotates && op.rope.x.empty()) run_on(stream, call.rope);
  if (convolves && op.conv.x.empty()) run_on(stream, call.conv);
}

}  // namespace samba::few_rows
