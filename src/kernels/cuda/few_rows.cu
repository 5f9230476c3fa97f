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
  const int row = own ? static_cast<int>(op.w.cols) * static_cast<int>(sizeof(Bf16)) : 0;
  return static_cast<std::size_t>(kSlotBytes<warps> +
                                  kSums<row_tiles> * kSumBytes<row_tiles, warps> + row);
}

/// How the L2 cache treats what is read once: it goes before all else.
__device__ std::uint64_t evicted_first() {
  std::uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

/// copy_async under that policy.
__device__ void copy_async(void* to, const void* from, bool there, std::uint64_t policy) {
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;" ::"r"(
                   static_cast<std::uint32_t>(__cvta_generic_to_shared(to))),
               "l"(__cvta_generic_to_global(from)), "r"(there ? 16 : 0), "l"(policy)
               : "memory");
}

constexpr int kMostNormWarps = 32;  // of op::RmsNorm's kernel for a row that it reads once

/// Brings x's only row to shared memory: normed, where there is a norm, to the bits of op::RmsNorm.
/// The warps here take the places of its warps in turn.
template <int warps>
__device__ void bring_row(const op::Linear& op, Bf16* to) {
  __shared__ float squares[kMostNormWarps];
  const int inputs = static_cast<int>(op.x.cols);
  if (op.norm.empty()) {
#pragma unroll 2
    for (int i = threadIdx.x; i < inputs / 8; i += warps * 32)
      reinterpret_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(op.x.row<Bf16>(0))[i];
    return __syncthreads();
  }
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int places = ceil_div(inputs, 32 * kNormRun * kNormKept);
  const auto each_run = [&](int place, const auto& f) {
#pragma unroll
    for (int run = 0; run < kNormKept; ++run) {
      const int column = (places * 32 * run + place * 32 + lane) * kNormRun;
      if (column >= inputs) continue;
      float x[kNormRun];
      load<kNormRun>(x, op.x.row<float>(0) + column);
      f(column, x);
    }
  };
#pragma unroll 1
  for (int place = warp; place < places; place += warps) {
    float sum = 0;
    each_run(place, [&](int, const auto& x) { add_squares(sum, x); });
    sum = warp_sum(sum);
    if (lane == 0) squares[place] = sum;
  }
  __syncthreads();
  float sum = 0;
#pragma unroll 1
  for (int place = 0; place < places; ++place) sum += squares[place];
  const float scale = norm_scale(sum, inputs, op.eps);
#pragma unroll 1
  for (int place = warp; place < places; place += warps)
    each_run(place, [&](int column, const auto& x) {
      float w[kNormRun];
      load<kNormRun>(w, op.norm.row<float>(0) + column);
#pragma unroll
      for (int i = 0; i < kNormRun; ++i) w[i] *= normal_of<Bf16>(x[i], scale);
      store<kNormRun>(to + column, w);
    });
  __syncthreads();
}

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
  __device__ Source(const op::Linear& op, uint4* slots)
      : op_(op),
        slots_(slots + threadIdx.x / 32 * kSlots<warps> * 2 * 32 + threadIdx.x % 32),
        policy_(evicted_first()),
        tile_(static_cast<int>(blockIdx.x)) {
    aim();
  }
  /// Sends the next step on its way, to the slot behind the last one.
  __device__ void send(int tiles) {
    const int inputs = static_cast<int>(op_.w.cols);
    const int column = first_ + static_cast<int>(threadIdx.x) / 32 * kStep + threadIdx.x % 4 * 8;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const bool there = real_[half] && column < inputs;
      copy_async(slots_ + (slot_ * 2 + half) * 32, weight_[half] + (there ? column : 0), there,
                 policy_);
    }
    copy_async_commit();
    slot_ = slot_ + 1 == kSlots<warps> ? 0 : slot_ + 1;
    first_ += warps * kStep;
    if (first_ < inputs) return;
    first_ = 0;
    tile_ += static_cast<int>(gridDim.x);
    aim();
    if (tile_ >= tiles) real_[0] = real_[1] = false;
  }
  __device__ uint4 get(int slot, int half) const { return slots_[(slot * 2 + half) * 32]; }

 private:
  __device__ void aim() {
    const Left left(op_, tile_);
    const int group = threadIdx.x % 32 / 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      real_[half] = group < left.count[half];
      weight_[half] = op_.w.row<Bf16>(real_[half] ? left.first[half] + group : 0);
    }
  }

  const op::Linear& op_;
  uint4* slots_;
  std::uint64_t policy_;
  int tile_;
  int slot_ = 0;
  int first_ = 0;  ///< input of the warps' next steps
  const Bf16* weight_[2];
  bool real_[2];
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
  Source<warps> source(op, reinterpret_cast<uint4*>(memory));
#pragma unroll 1
  for (int i = 0; i < kSlots<warps> - 1; ++i) source.send(tiles);
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
  if constexpr (own) bring_row<warps>(op, row);
  const Bf16* input[row_tiles];
  bool used[row_tiles];
#pragma unroll
  for (int n = 0; n < row_tiles; ++n) {
    used[n] = n * 8 + group < count;
    input[n] = own ? row : op.x.row<Bf16>(used[n] ? n0 + n * 8 + group : 0);
  }

  // A step ahead: rows come from memory, unless the block keeps them.
  struct Inputs {
    uint4 of_row[row_tiles];
  };
  const auto inputs_at = [&](int first) {
    const int column = first + warp * kStep + t * 8;
    Inputs x;
#pragma unroll
    for (int n = 0; n < row_tiles; ++n)
      x.of_row[n] = used[n] && column < inputs ? *reinterpret_cast<const uint4*>(input[n] + column)
                                               : uint4{0, 0, 0, 0};
    return x;
  };
  Inputs x = inputs_at(0);

  int slot = 0, turn = 0;
#pragma unroll 1
  for (int tile = static_cast<int>(blockIdx.x); tile < tiles;
       tile += static_cast<int>(gridDim.x), ++turn) {
    float sum[row_tiles][4] = {};
#pragma unroll 1
    for (int first = 0; first < inputs; first += warps * kStep) {
      copy_async_wait<kSlots<warps> - 2>();
      const uint4 high = source.get(slot, 0), low = source.get(slot, 1);
      slot = slot + 1 == kSlots<warps> ? 0 : slot + 1;
      // To the slot of the step before, which is multiplied.
      source.send(tiles);
      const int next = first + warps * kStep;
      const Inputs behind = inputs_at(next < inputs ? next : 0);
#pragma unroll
      for (int n = 0; n < row_tiles; ++n) multiply_step(sum[n], high, low, x.of_row[n]);
      x = behind;
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
    // Warps finish tiles in turn, whole warps, for those of pairs meet.
    const int threads = warps * 32;
#pragma unroll 1
    for (int i = (threadIdx.x + turn * 32) % threads; i < ceil_div(count * kLeft, 32) * 32;
         i += threads) {
      const int l = i % kLeft, column = left.row(l);
      const bool exists = i < count * kLeft && left.real(l);
      Y* const y = op.y.row<Y>(n0 + (exists ? i / kLeft : 0));
      float value = 0;
      if (exists) {
        if (op.add)
          value = to_float(y[column]);
        else if (!op.bias.empty())
          value = op.bias.row<float>(0)[column];
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
  const bool keeps = visit_warps(op.w, [&]<int warps>() { return keeps_row<warps>(stream, op); });
  return keeps && norm_warps(op.w.cols) <= kMostNormWarps && aligned(kNormRun, op.x, op.norm);
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
