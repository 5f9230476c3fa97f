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
// waits, a kernel has no more blocks than run at once, and each goes from tile to tile without a
// pause, its copies many steps ahead: little of a multiprocessor's shared memory is left. The
// blocks of the kernel behind it begin where one has ended or where there is room beside it
// (launch_early), fetch their first weights, and wait.
//
// Code that runs once costs a miss of the instruction cache every 128 bytes: so there is one copy
// of everything, and little is unrolled.

namespace samba::few_rows {
namespace {

/// Of those on their way to a block that waits: more would stand in the way of what the kernels
/// before it still read.
constexpr int kAtOnce = 3;
/// Blocks of a kernel that waits and asks for more than that: the L2 cache, for what has no slot.
constexpr int kFewBlocks = 32;
/// Shared memory of Hopper's multiprocessors, of which the system takes some for each block; and
/// what a block has on any GPU.
constexpr int kMemory = 228 << 10, kMemoryOfSystem = 1 << 10, kLeastMemory = 99 << 10;

/// How a kernel is cut. `own`: x has one row, which each block keeps in shared memory; else a
/// step's inputs come beside its weights. `small_`: any GPU has the memory.
template <int row_tiles_, int lefts_, int warps_, bool own_, bool small_ = false>
struct Shape {
  static constexpr int row_tiles = row_tiles_;  ///< of 8 rows of x
  static constexpr int lefts = lefts_;          ///< of kLeft rows of w
  static constexpr int warps = warps_;
  static constexpr bool own = own_;
  static constexpr int rows = own ? 1 : 8 * row_tiles;
  static constexpr int columns = kLeft * lefts;  ///< a tile's sums of one row
  static constexpr int threads = warps * 32;
  static constexpr int round = warps * kStep;  ///< inputs that the warps multiply at once

  /// Of a warp's step, in 16 bytes a lane.
  static constexpr int weight_bytes = lefts * kLeft * kStep * static_cast<int>(sizeof(Bf16));
  static constexpr int input_bytes = own ? 0 : rows * kStep * static_cast<int>(sizeof(Bf16));
  static constexpr int step_bytes = weight_bytes + input_bytes;
  static constexpr int sum_bytes = warps * rows * columns * static_cast<int>(sizeof(float));
  /// Tiles whose sums there is room for: two in turn save a barrier.
  static constexpr int sums = row_tiles == 1 ? 2 : 1;
  /// Blocks of a kernel on a multiprocessor. Where there are tiles for all, memory leaves no room
  /// for more: the first blocks would take it, and some multiprocessors had more to do than others.
  static constexpr int resident = (lefts == 1 ? 16 : 8) / warps;
  static constexpr int memory = small_ ? kLeastMemory : kMemory / resident - kMemoryOfSystem;
  /// Steps of a warp that there is room for: bytes under way are what keeps the memory busy. Where
  /// blocks keep their row, one of 16 warps and one of 8 fit beside each other.
  static constexpr int slots_beside_row = warps > 8 ? 6 : warps > 4 ? 12 : 4;
  static constexpr int slots =
      own ? slots_beside_row : std::min(8, (memory - sums * sum_bytes) / (warps * step_bytes));
  static constexpr int slot_bytes = warps * slots * step_bytes;
  static_assert(slots >= 2);
};

template <class S>
std::size_t shared_bytes(const op::Linear& op) {
  const int row = S::own ? ceil_div(static_cast<int>(op.w.cols), S::round) * S::round *
                               static_cast<int>(sizeof(Bf16))
                         : 0;
  return static_cast<std::size_t>(S::slot_bytes + S::sums * S::sum_bytes + row);
}

/// How the L2 cache treats what is read once: it goes before all else.
__device__ std::uint64_t evicted_first() {
  std::uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

/// copy_async to an address of shared memory, and the same under that policy.
__device__ void copy_async(std::uint32_t to, const Bf16* from, bool there) {
  asm volatile(
      "{\n"
      ".reg .pred absent;\n"
      "setp.eq.u32 absent, %2, 0;\n"
      "cp.async.cg.shared.global [%0], [%1], 16, absent;\n"
      "}" ::"r"(to),
      "l"(__cvta_generic_to_global(from)), "r"(static_cast<unsigned>(there))
      : "memory");
}
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

/// Where a warp's factors come from, step by step and tile by tile. A lane reads from the slots
/// what it has sent there, and nothing else: 16 bytes of each row of w or x that is its own.
template <class S>
class Source {
 public:
  __device__ Source(const op::Linear& op, const std::byte* slots, int tiles, int first_row,
                    int rows)
      : op_(op),
        tiles_(tiles),
        policy_(evicted_first()),
        begin_(static_cast<std::uint32_t>(__cvta_generic_to_shared(slots)) +
               threadIdx.x / 32 * S::slots * S::step_bytes + threadIdx.x % 32 * 16),
        to_(begin_),
        from_(begin_),
        tile_(static_cast<int>(blockIdx.y)) {
    aim();
#pragma unroll
    for (int n = 0; n < kInputs; ++n) {
      const int row = n * 8 + static_cast<int>(threadIdx.x) % 32 / 4;
      used_[n] = row < rows;
      input_[n] = op.x.row<Bf16>(used_[n] ? first_row + row : 0);
    }
  }
  /// Sends the weights of the next step on their way, to the slot behind the last one.
  __device__ void send_weights() {
    const bool there = column_ < static_cast<int>(op_.w.cols);
#pragma unroll
    for (int i = 0; i < 2 * S::lefts; ++i) {
      copy_async(to_ + i * 512, weight_[i], there && real_[i], policy_);
      weight_[i] += S::round;
    }
  }
  /// And its inputs.
  __device__ void send_inputs() { send_inputs(to_, column_); }
  /// The inputs of the first steps, whose weights are on their way.
  __device__ void send_first_inputs() {
    const int inputs = static_cast<int>(op_.w.cols);
    int column = first_column();
#pragma unroll 1
    for (int i = 0; i < S::slots; ++i) {
      send_inputs(begin_ + i * S::step_bytes, column);
      copy_async_commit();
      column += S::round;
      if (column >= ceil_div(inputs, S::round) * S::round) column = first_column();
    }
  }
  /// The step is sent: what is sent next belongs to the next.
  __device__ void advance() {
    copy_async_commit();
    next_slot(to_);
    column_ += S::round;
    if (--rounds_ > 0) return;
    tile_ += static_cast<int>(gridDim.y);
    aim();
  }
  /// Asks the L2 cache for as many steps as there are slots, behind those that were sent.
  __device__ void prefetch_behind() const {
    const int inputs = static_cast<int>(op_.w.cols), l = static_cast<int>(threadIdx.x);
    const int first = (ceil_div(inputs, S::round) - rounds_) * S::round;
    const int count = min(S::slots * S::round, inputs - first);
    if (tile_ >= tiles_ || l >= S::columns) return;
    const Left left(op_, tile_ * S::lefts + l / kLeft);
    if (left.real(l % kLeft))
      prefetch_run(op_.w.row<Bf16>(left.row(l % kLeft)) + first, count * sizeof(Bf16));
  }
  /// The next step, once it has come; this lane's part of it begins here.
  __device__ std::uint32_t get() {
    copy_async_wait<S::slots - 1>();
    const std::uint32_t from = from_;
    next_slot(from_);
    return from;
  }

 private:
  static constexpr int kInputs = S::own ? 0 : S::row_tiles;

  __device__ static int first_column() {
    return static_cast<int>(threadIdx.x) / 32 * kStep + static_cast<int>(threadIdx.x) % 4 * 8;
  }
  __device__ void send_inputs(std::uint32_t slot, int column) const {
    const bool there = column < static_cast<int>(op_.w.cols);
#pragma unroll
    for (int n = 0; n < kInputs; ++n)
      copy_async(slot + S::weight_bytes + n * 512, input_[n] + column, there && used_[n]);
  }
  __device__ void next_slot(std::uint32_t& slot) const {
    slot += S::step_bytes;
    if (slot == begin_ + S::slots * S::step_bytes) slot = begin_;
  }
  __device__ void aim() {
    const int group = threadIdx.x % 32 / 4;
    column_ = first_column();
    rounds_ = ceil_div(static_cast<int>(op_.w.cols), S::round);
#pragma unroll
    for (int i = 0; i < 2 * S::lefts; ++i) {
      const Left left(op_, tile_ * S::lefts + i / 2);
      real_[i] = group < left.count[i % 2];
      weight_[i] = op_.w.row<Bf16>(real_[i] ? left.first[i % 2] + group : 0) + column_;
    }
    if (tile_ >= tiles_) column_ = static_cast<int>(op_.w.cols);  // and nothing is there
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
  bool real_[2 * S::lefts];
  const Bf16* weight_[2 * S::lefts];
  bool used_[S::row_tiles];
  const Bf16* input_[S::row_tiles];
};

__device__ uint4 load_shared(std::uint32_t from) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(from)
               : "memory");
  return v;
}

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

/// A block makes tiles of S::columns columns of y (of a gated one half as many) for up to S::rows
/// rows; its warps share the inputs, a step of them in turn, and add up in order. A weight is a row
/// of the tensor core's left factor, so rows of x are columns of its right one: each by itself.
/// Inside a step the core's order of inputs is free, as long as both factors have it.
template <class S, class Y, class Angles>
__global__ __launch_bounds__(S::threads,
                             2 * S::resident) void few_rows(const __grid_constant__ op::Linear op,
                                                            const __grid_constant__ Angles angles,
                                                            const int tiles) {
  extern __shared__ __align__(16) std::byte memory[];
  let_next_begin();
  const int n0 = static_cast<int>(blockIdx.x) * S::rows;
  const int inputs = static_cast<int>(op.w.cols);
  const int count = min(S::rows, static_cast<int>(op.y.rows) - n0);
  Source<S> source(op, memory, tiles, n0, count);
  [[maybe_unused]] std::conditional_t<S::own, Row<S::warps>, NoRow> only(op);
#pragma unroll 1
  for (int i = 0; i < S::slots; ++i) {
    if (i >= kAtOnce && gridDim.x * gridDim.y > kFewBlocks) copy_async_wait<kAtOnce - 1>();
    source.send_weights();
    source.advance();
  }
  if (gridDim.x * gridDim.y <= kFewBlocks) source.prefetch_behind();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, t = lane % 4;
#pragma unroll 1
  for (int j = 0; j < S::lefts; ++j) {
    const Left left(op, static_cast<int>(blockIdx.y) * S::lefts + j);
    if (left.use == Left::convolved) prefetch_convolutions(op, left, n0, count);
  }
  wait_for_previous();

  auto* row = reinterpret_cast<Bf16*>(memory + S::slot_bytes + S::sums * S::sum_bytes);
  if constexpr (S::own)
    only.bring(row);
  else
    source.send_first_inputs();

  // What a sum is added to. A thread's first is read before the sum is made.
  const bool adds = op.add || !op.bias.empty();
  const auto addend = [&](const Left& left, int l, int n) {
    if (!adds || n >= count || !left.real(l)) return 0.0f;
    return op.add ? to_float(op.y.row<Y>(n0 + n)[left.row(l)]) : op.bias.row<float>(0)[left.row(l)];
  };
  const auto left_of = [&](int tile, int i) {
    return Left(op, tile * S::lefts + i % S::columns / kLeft);
  };
  // Where a sum lies, of a warp's: rows of a lane's neighbours in different banks.
  const auto place_of_sum = [](int n, int column) {
    return n * S::columns + (column ^ n / 2 * 8 % S::columns);
  };

  const int rounds = ceil_div(inputs, S::round);
  int turn = 0;
#pragma unroll 1
  for (int tile = static_cast<int>(blockIdx.y); tile < tiles;
       tile += static_cast<int>(gridDim.y), ++turn) {
    float sum[S::lefts][S::row_tiles][4] = {};
    // Warps finish tiles in turn, whole warps, for those of pairs meet.
    const int place = (static_cast<int>(threadIdx.x) + turn * 32) % S::threads;
    const float first_addend =
        adds ? addend(left_of(tile, place), place % kLeft, place / S::columns) : 0;
#pragma unroll 1
    for (int round = 0; round < rounds; ++round) {
      const std::uint32_t from = source.get();
      uint4 w[2 * S::lefts];
#pragma unroll
      for (int i = 0; i < 2 * S::lefts; ++i) w[i] = load_shared(from + i * 512);
#pragma unroll
      for (int n = 0; n < S::row_tiles; ++n) {
        uint4 x;
        if constexpr (S::own)
          x = *reinterpret_cast<const uint4*>(row + round * S::round + warp * kStep + t * 8);
        else
          x = load_shared(from + S::weight_bytes + n * 512);
#pragma unroll
        for (int j = 0; j < S::lefts; ++j) multiply_step(sum[j][n], w[2 * j], w[2 * j + 1], x);
      }
      // To the same slot, whose factors are multiplied.
      source.send_weights();
      if constexpr (!S::own) source.send_inputs();
      source.advance();
    }

    auto* partial =
        reinterpret_cast<float*>(memory + S::slot_bytes + turn % S::sums * S::sum_bytes);
#pragma unroll
    for (int n = 0; n < S::row_tiles; ++n)
#pragma unroll
      for (int j = 0; j < S::lefts; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          if (n * 8 + t * 2 + i % 2 < S::rows)
            partial[warp * S::rows * S::columns +
                    place_of_sum(n * 8 + t * 2 + i % 2, j * kLeft + group + i / 2 * 8)] =
                sum[j][n][i];
    // Of two in turn, who reads the sums arrives at the next barrier before anybody writes over
    // them.
    __syncthreads();
#pragma unroll 1
    for (int i = place; i < ceil_div(count * S::columns, 32) * 32; i += S::threads) {
      const Left left = left_of(tile, i);
      const int l = i % kLeft, n = i / S::columns, column = left.row(l);
      const bool exists = n < count && left.real(l);
      Y* const y = op.y.row<Y>(n0 + (exists ? n : 0));
      float value = i == place ? first_addend : addend(left, l, n);
      if (exists) {
#pragma unroll
        for (int other = 0; other < S::warps; ++other)
          value += partial[other * S::rows * S::columns + place_of_sum(n, i % S::columns)];
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
            rotation_of(angles.turns[pair], position_of(op.rope, n0 + n), op.rope.inverse)
                .turn(a, b);
            y[left.first[1] + l] = from_float<Y>(b);
          }
        y[column] = from_float<Y>(a);
        if (left.use == Left::convolved)
          op.conv.y.row<Y>(n0 + n)[column] =
              from_float<Y>(TokenConvolution(op.conv, n0 + n, column).run<Y>(op.conv, a));
      }
    }
    if constexpr (S::sums == 1) __syncthreads();
  }
  copy_async_wait<0>();
}

template <class S>
Index tiles_of(const op::Linear& op) {
  return ceil_div(op.outputs(), Index{S::columns});
}

/// Blocks that read the same weights for other rows are neighbours, so that these come from memory
/// once.
template <class S>
void launch(CudaStream& stream, const op::Linear& op) {
  const Index tiles = tiles_of<S>(op), parts = ceil_div(op.y.rows, S::rows);
  const Index most = std::max(Index{1}, Index{stream.multiprocessors()} * S::resident / parts);
  const dim3 grid(static_cast<unsigned>(parts), static_cast<unsigned>(std::min(tiles, most)));
  const std::size_t shared = shared_bytes<S>(op);
  if (!op.rope.x.empty()) {
    Frequencies angles;
    fill_frequencies(op.rope.base, op.rope.x.cols / op.rope.heads / 2, angles.turns);
    return launch_early(stream, few_rows<S, Bf16, Frequencies>, grid, S::threads, shared, op,
                        angles, static_cast<int>(tiles));
  }
  visit_float(op.y.dtype, [&]<class Y>() {
    launch_early(stream, few_rows<S, Y, NoAngles>, grid, S::threads, shared, op, NoAngles{},
                 static_cast<int>(tiles));
  });
}

/// Whether each block keeps x's only row itself. The bits are the same.
template <int warps>
bool keeps_row(const CudaStream& stream, const op::Linear& op) {
  return op.x.rows == 1 &&
         shared_bytes<Shape<1, 1, warps, true>>(op) <= stream.properties().sharedMemPerBlockOptin;
}

/// Takes the shape where there are more rows than `above` for enough blocks, and memory.
template <class S>
bool launches(CudaStream& stream, const op::Linear& op, Index above) {
  const bool enough = above == 0 || 2 * tiles_of<S>(op) > stream.multiprocessors();
  if (op.y.rows <= above || !enough ||
      shared_bytes<S>(op) > stream.properties().sharedMemPerBlockOptin)
    return false;
  launch<S>(stream, op);
  return true;
}

template <int warps>
void launch(CudaStream& stream, const op::Linear& op) {
  if (keeps_row<warps>(stream, op)) return launch<Shape<1, 1, warps, true>>(stream, op);
  // The taller a tile, the less often its inputs are read; but few tiles are needed as they are.
  constexpr int lefts = warps == 8 ? 2 : 1;
  if (launches<Shape<4, lefts, warps, false>>(stream, op, 16)) return;
  if (launches<Shape<2, lefts, warps, false>>(stream, op, 8)) return;
  if (launches<Shape<1, lefts, warps, false>>(stream, op, 0)) return;
  launch<Shape<1, 1, warps, false, true>>(stream, op);
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
