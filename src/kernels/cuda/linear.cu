#include <algorithm>

#include "core/cuda_blas.h"
#include "kernels/cuda/causal_conv1d.cuh"
#include "kernels/cuda/few_rows.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/norm.cuh"
#include "kernels/cuda/product.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/rope.cuh"
#include "kernels/cuda/vector.cuh"
#include "kernels/linear.h"
#include "kernels/rms_norm.h"
#include "kernels/swiglu.h"

// Products of matrices take one of four ways:
//   ours      many rows of bf16 on Hopper, product_hopper.cuh: those that is_ours() names
//   library   cuBLASLt: many rows
//   few rows  at most kFewRows of bf16: reading the weight once is what takes the time
//   any       every other: odd widths and strides, few rows of f32
// The last two give a row the same bits in any company. So do the others for one number of rows;
// who mixes sequences in a pass mixes few rows only.

namespace samba {
namespace {

constexpr Index kFewRows = 128;

// ---- any ---------------------------------------------------------------------------------------

/// A factor of a product with its elements anywhere.
struct Factor {
  const std::byte* data;
  Index down;    ///< elements from one row to the next
  Index across;  ///< and from one column
};

struct AnyProduct {
  View c;  ///< [M, N]
  Factor a, b;
  Index depth;
  ConstView bias;
  bool add;
};

constexpr int kTile = 64;
constexpr int kDepth = 16;

/// A block makes a tile of c, each thread 4 x 4 of it. Every element is one sum in ascending order,
/// which begins with what it is added to: products in pieces leave the same bits.
template <class T, class C>
__global__ __launch_bounds__(256) void any_product(const AnyProduct p) {
  __shared__ float a[kDepth][kTile + 4], b[kDepth][kTile + 4];
  const Index m0 = Index{blockIdx.y} * kTile, n0 = Index{blockIdx.x} * kTile;
  const int m = threadIdx.x / 16 * 4, n = threadIdx.x % 16 * 4;
  float sum[4][4];
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const Index row = m0 + m + i, col = n0 + n + j;
      sum[i][j] = 0;
      if (row >= p.c.rows || col >= p.c.cols) continue;
      if (!p.bias.empty()) sum[i][j] = p.bias.row<float>(0)[col];
      if (p.add) sum[i][j] = to_float(p.c.row<C>(row)[col]);
    }
  const auto* from_a = reinterpret_cast<const T*>(p.a.data);
  const auto* from_b = reinterpret_cast<const T*>(p.b.data);
  for (Index k0 = 0; k0 < p.depth; k0 += kDepth) {
    // Neighbouring threads read neighbouring elements, whichever way the factor lies.
    for (int i = threadIdx.x; i < kDepth * kTile; i += 256) {
      const bool rows_lie_close = p.a.down == 1;
      const int k = rows_lie_close ? i / kTile : i % kDepth;
      const int row = rows_lie_close ? i % kTile : i / kDepth;
      const bool inside = k0 + k < p.depth && m0 + row < p.c.rows;
      a[k][row] = inside ? to_float(from_a[(m0 + row) * p.a.down + (k0 + k) * p.a.across]) : 0.0f;
    }
    for (int i = threadIdx.x; i < kDepth * kTile; i += 256) {
      const bool columns_lie_close = p.b.across == 1;
      const int k = columns_lie_close ? i / kTile : i % kDepth;
      const int col = columns_lie_close ? i % kTile : i / kDepth;
      const bool inside = k0 + k < p.depth && n0 + col < p.c.cols;
      b[k][col] = inside ? to_float(from_b[(k0 + k) * p.b.down + (n0 + col) * p.b.across]) : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kDepth; ++k)
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[i][j] = fmaf(a[k][m + i], b[k][n + j], sum[i][j]);
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (m0 + m + i < p.c.rows && n0 + n + j < p.c.cols)
        p.c.row<C>(m0 + m + i)[n0 + n + j] = from_float<C>(sum[i][j]);
}

void multiply_any(CudaStream& stream, const MatrixProduct& p) {
  const auto factor = [](ConstView v, bool transposed) {
    return transposed ? Factor{v.data, 1, v.stride} : Factor{v.data, v.stride, 1};
  };
  const AnyProduct any{p.c,
                       factor(p.a, p.a_transposed),
                       factor(p.b, p.b_transposed),
                       p.a_transposed ? p.a.rows : p.a.cols,
                       p.bias,
                       p.add};
  const dim3 grid(static_cast<unsigned>(ceil_div(p.c.cols, kTile)),
                  static_cast<unsigned>(ceil_div(p.c.rows, kTile)));
  visit_float(p.a.dtype, [&]<class T>() {
    if (p.c.dtype == DType::f32)
      launch(stream, any_product<T, float>, grid, 256, 0, any);
    else
      launch(stream, any_product<T, T>, grid, 256, 0, any);
  });
}

// ---- few rows ----------------------------------------------------------------------------------

constexpr int kSlots = 4;    // steps of a warp whose weights shared memory has room for
constexpr int kPitch = 20;   // of rows of kLeft sums: neighbouring lanes then write different banks
constexpr int kOwnRows = 4;  // of x, at most, that each block brings to shared memory and may norm
constexpr int kRowPadding = 32;  // of x's rows in shared memory, as for kPitch
/// Inputs whose weights a block asks for before it may begin, behind those that its slots hold: 64
/// KiB of them.
constexpr int kAskedFor = (64 << 10) / kLeft / static_cast<int>(sizeof(Bf16));

/// Bytes of shared memory: of the slots, whose place the sums take in the end, and of x's rows.
constexpr int slot_bytes(int warps, int tiles) {
  const int slots = warps * kSlots * kLeft * kStep * static_cast<int>(sizeof(Bf16));
  const int sums = warps * 8 * tiles * kPitch * static_cast<int>(sizeof(float));
  return slots > sums ? slots : sums;
}
Index own_bytes(const op::Linear& op) {
  return op.x.rows * (op.w.cols + kRowPadding) * Index{sizeof(Bf16)};
}

/// How the L2 cache treats what is read once: it goes before what was asked for ahead.
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

/// Brings the rows of x to shared memory, `pitch` elements apart: normed, where there is a norm, to
/// the bits of op::RmsNorm.
template <int warps>
__device__ void bring_rows(const op::Linear& op, Bf16* to, int pitch) {
  __shared__ float scratch[warps];
  const Index inputs = op.x.cols;
  if (op.norm.empty()) {
    const Index units = inputs / 8;
    for (Index row = 0; row < op.x.rows; ++row)
      for (Index i = threadIdx.x; i < units; i += warps * 32)
        reinterpret_cast<uint4*>(to + row * pitch)[i] =
            reinterpret_cast<const uint4*>(op.x.row<Bf16>(row))[i];
    return __syncthreads();
  }
  // Teams of warps take a row each.
  const int team = static_cast<int>(norm_warps(inputs)), teams = warps / team;
  const int warp = threadIdx.x / 32, mine = warp / team;
  const int thread = static_cast<int>(threadIdx.x) - mine * team * 32;
  for (Index first = 0; first < op.x.rows; first += teams) {
    const Index row = first + mine;
    const bool real = mine < teams && row < op.x.rows;
    float x[kNormKept][kNormRun] = {}, squares = 0;
    const auto column = [&](int run) { return (team * 32 * run + thread) * kNormRun; };
    if (real)
#pragma unroll
      for (int run = 0; run < kNormKept; ++run)
        if (column(run) < inputs) {
          load<kNormRun>(x[run], op.x.row<float>(row) + column(run));
          add_squares(squares, x[run]);
        }
    squares = warp_sum(squares);
    if (threadIdx.x % 32 == 0) scratch[warp] = squares;
    __syncthreads();
    if (real) {
      float sum = 0;
      for (int other = 0; other < team; ++other) sum += scratch[mine * team + other];
      const float scale = norm_scale(sum, inputs, op.eps);
#pragma unroll
      for (int run = 0; run < kNormKept; ++run)
        if (column(run) < inputs) {
          float w[kNormRun];
          load<kNormRun>(w, op.norm.row<float>(0) + column(run));
#pragma unroll
          for (int i = 0; i < kNormRun; ++i) w[i] *= normal_of<Bf16>(x[run][i], scale);
          store<kNormRun>(to + row * pitch + column(run), w);
        }
    }
    __syncthreads();
  }
}

struct NoAngles {};

/// The rows of w that a block takes, twice 8 neighbours, and what becomes of its sums: they stay
/// apart, or the first of them are gates of the others, or pairs that are rotated, or each goes
/// through a convolution.
struct Left {
  enum Use { apart, gates, pairs, convolved };
  Use use = apart;
  Index first[2];
  int count[2];
  int head = 1;  ///< columns of a head that is rotated

  __device__ Left(const op::Linear& op, Index block) {
    const Index outputs = op.y.cols;
    if (op.gated) {
      use = gates;
      first[0] = block * 8, first[1] = outputs + block * 8;
      count[0] = count[1] = static_cast<int>(min(Index{8}, outputs - block * 8));
      return;
    }
    first[0] = block * kLeft, first[1] = first[0] + 8;
    if (first[0] < op.conv.x.cols) use = convolved;
    if (first[0] < op.rope.x.cols) {
      use = pairs;
      head = static_cast<int>(op.rope.x.cols) / static_cast<int>(op.rope.heads);
      first[0] -= static_cast<int>(first[0]) % head / 2;
      first[1] = first[0] + head / 2;
    }
#pragma unroll
    for (int half = 0; half < 2; ++half)
      count[half] = static_cast<int>(min(Index{8}, outputs - first[half]));
  }
  /// The row of w, which but for a gated y is the column of y, and whether it exists.
  __device__ Index row(int l) const { return l < 8 ? first[0] + l : first[1] + l - 8; }
  __device__ bool real(int l) const { return l < 8 ? l < count[0] : l - 8 < count[1]; }
};

/// A block makes 16 columns of y (of a gated one 8) for up to 8 * tiles rows; its warps share the
/// inputs, a step of them in turn, and add up in order. A weight is a row of the tensor core's left
/// factor, so rows of x are columns of its right one: each by itself.
///
/// Inside a step the core's order of inputs is free, as long as both factors have it: lane t of
/// four takes 8 neighbours of each row, in one access.
///
/// `own`: x has at most kOwnRows rows, which the block keeps in shared memory.
template <int tiles, int warps, bool own, class Y, class Angles>
__global__ __launch_bounds__(warps * 32, (tiles <= 2 ? 32 : 16) / warps) void few_rows(
    const op::Linear op, const __grid_constant__ Angles angles) {
  constexpr int kRows = 8 * tiles;
  extern __shared__ __align__(16) std::byte memory[];
  let_next_begin();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, t = lane % 4;
  const Left left(op, Index{blockIdx.x});
  const Index n0 = Index{blockIdx.y} * kRows;
  const int inputs = static_cast<int>(op.w.cols), steps = ceil_div(inputs, kStep);

  const Bf16* weight[2];
  bool real[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    real[half] = group < left.count[half];
    weight[half] = op.w.row<Bf16>(real[half] ? left.first[half] + group : 0) + t * 8;
  }
  // A lane reads from the slots what it has sent there, and nothing else.
  uint4* slots = reinterpret_cast<uint4*>(memory) + warp * kSlots * 2 * 32 + lane;
  const std::uint64_t policy = evicted_first();
  const auto send = [&](int slot, int step) {
    const int k = step * kStep;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const bool there = real[half] && k + t * 8 < inputs;
      copy_async(slots + (slot * 2 + half) * 32, there ? weight[half] + k : weight[half], there,
                 policy);
    }
    copy_async_commit();
  };
#pragma unroll
  for (int slot = 0; slot < kSlots - 1; ++slot) send(slot, warp + slot * warps);
  constexpr int kSent = (kSlots - 1) * warps * kStep;
  if (warp == 0 && t == 0 && blockIdx.y == 0)
#pragma unroll
    for (int half = 0; half < 2; ++half)
      if (const int rest = min(inputs - kSent, kAskedFor); real[half] && rest > 0)
        prefetch_run(weight[half] + kSent, static_cast<unsigned>(rest * sizeof(Bf16)));
  const int count = static_cast<int>(min(Index{kRows}, op.y.rows - n0));
  if (left.use == Left::convolved) {
    const int rows = static_cast<int>(op.conv.w.cols) - 1;
    for (int i = threadIdx.x; i < count * rows; i += warps * 32)
      if (const Index slot = op.conv.batch.spans[n0 + i / rows].slot;
          slot >= 0 && !op.conv.state.empty())
        prefetch(op.conv.state.row<float>(slot) + i % rows * op.conv.x.cols + left.first[0]);
    if (threadIdx.x < kLeft) prefetch(op.conv.w.row<float>(left.row(threadIdx.x)));
  }
  wait_for_previous();

  const int pitch = inputs + kRowPadding;
  auto* rows = reinterpret_cast<Bf16*>(memory + slot_bytes(warps, tiles));
  if constexpr (own) bring_rows<warps>(op, rows, pitch);
  const Bf16* input[tiles];
  bool used[tiles];
#pragma unroll
  for (int n = 0; n < tiles; ++n) {
    const Index row = n0 + n * 8 + group;
    used[n] = row < op.x.rows;
    input[n] =
        (own ? rows + (used[n] ? row : 0) * pitch : op.x.row<Bf16>(used[n] ? row : 0)) + t * 8;
  }

  float sum[tiles][4] = {};
  for (int first = warp; first < steps; first += warps * kSlots) {
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      const int step = first + slot * warps, k = step * kStep;
      if (step >= steps) break;
      uint4 x[tiles];
#pragma unroll
      for (int n = 0; n < tiles; ++n)
        x[n] = used[n] && k + t * 8 < inputs ? *reinterpret_cast<const uint4*>(input[n] + k)
                                             : uint4{0, 0, 0, 0};
      copy_async_wait<kSlots - 2>();
      const uint4 high = slots[slot * 2 * 32], low = slots[(slot * 2 + 1) * 32];
      // To the slot of the step before, which is multiplied.
      send((slot + kSlots - 1) % kSlots, step + (kSlots - 1) * warps);
#pragma unroll
      for (int n = 0; n < tiles; ++n) multiply_step(sum[n], high, low, x[n]);
    }
  }

  copy_async_wait<0>();
  __syncthreads();
  auto* partial = reinterpret_cast<float*>(memory);  // [warps][kRows][kPitch]
#pragma unroll
  for (int n = 0; n < tiles; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int column = group + (i / 2) * 8, row = n * 8 + t * 2 + i % 2;
      partial[(warp * kRows + row) * kPitch + column] = sum[n][i];
    }
  __syncthreads();
  // A sum, of row l of the left factor.
  const auto total = [&](int row, int l) {
    const Index column = left.row(l);
    float value = op.add            ? to_float(op.y.row<Y>(n0 + row)[column])
                  : op.bias.empty() ? 0.0f
                                    : op.bias.row<float>(0)[column];
#pragma unroll
    for (int other = 0; other < warps; ++other)
      value += partial[(other * kRows + row) * kPitch + l];
    return value;
  };
  if (left.use == Left::apart || left.use == Left::convolved) {
    for (int i = threadIdx.x; i < count * kLeft; i += warps * 32) {
      const int row = i / kLeft, l = i % kLeft;
      if (!left.real(l)) continue;
      const Index column = left.row(l);
      const Y value = from_float<Y>(total(row, l));
      op.y.row<Y>(n0 + row)[column] = value;
      if constexpr (std::is_same_v<Y, Bf16>)
        if (left.use == Left::convolved)
          op.conv.y.row<Y>(n0 + row)[column] = from_float<Y>(
              TokenConvolution(op.conv, n0 + row, column).run<Y>(op.conv, to_float(value)));
    }
    return;
  }
  // Sums are rounded before they meet, as where another kernel reads them.
  if constexpr (std::is_same_v<Y, Bf16>)
    for (int i = threadIdx.x; i < count * kLeft / 2; i += warps * 32) {
      const int row = i / (kLeft / 2), l = i % (kLeft / 2);
      if (l >= left.count[0]) continue;
      float a = to_float(from_float<Y>(total(row, l)));
      float b = to_float(from_float<Y>(total(row, l + 8)));
      Y* y = op.y.row<Y>(n0 + row);
      if (left.use == Left::gates) {
        y[left.first[0] + l] = from_float<Y>(b * silu<Y>(a));
      } else if constexpr (std::is_same_v<Angles, Frequencies>) {
        const int pair = static_cast<int>(left.first[0] % left.head) + l;
        rotation_of(angles.turns[pair], position_of(op.rope, n0 + row), op.rope.inverse).turn(a, b);
        y[left.first[0] + l] = from_float<Y>(a);
        y[left.first[1] + l] = from_float<Y>(b);
      }
    }
}

template <int tiles, int warps, bool own>
void launch_few_rows(CudaStream& stream, const op::Linear& op) {
  const dim3 grid(static_cast<unsigned>(ceil_div(op.w.rows, kLeft)),
                  static_cast<unsigned>(ceil_div(op.y.rows, 8 * tiles)));
  const auto shared =
      static_cast<std::size_t>(slot_bytes(warps, tiles) + (own ? own_bytes(op) : 0));
  if (!op.rope.x.empty()) {
    Frequencies angles;
    fill_frequencies(op.rope.base, op.rope.x.cols / op.rope.heads / 2, angles.turns);
    return launch_early(stream, few_rows<tiles, warps, own, Bf16, Frequencies>, grid, warps * 32,
                        shared, op, angles);
  }
  visit_float(op.y.dtype, [&]<class Y>() {
    launch_early(stream, few_rows<tiles, warps, own, Y, NoAngles>, grid, warps * 32, shared, op,
                 NoAngles{});
  });
}

/// Whether each block keeps the rows of x itself. The bits are the same.
bool keeps_rows(const op::Linear& op) {
  constexpr Index kMostBytes = 64 << 10;
  return op.x.rows <= kOwnRows && own_bytes(op) <= kMostBytes;
}

template <int warps>
void launch_few_rows(CudaStream& stream, const op::Linear& op) {
  if (keeps_rows(op)) return launch_few_rows<1, warps, true>(stream, op);
  if (op.y.rows <= 8) return launch_few_rows<1, warps, false>(stream, op);
  // So many threads have no registers for more.
  if (op.y.rows <= 16 || warps == 32) return launch_few_rows<2, warps, false>(stream, op);
  if constexpr (warps < 32) {
    if (op.y.rows <= 32) return launch_few_rows<4, warps, false>(stream, op);
    launch_few_rows<8, warps, false>(stream, op);
  }
}

/// Whether few_rows() takes the product. It norms rows that its blocks keep.
bool is_few_rows(const op::Linear& op) {
  if (op.dtype() != DType::bf16 || op.x.rows > kFewRows || !aligned(8, op.w)) return false;
  if (op.norm.empty()) return aligned(8, op.x);
  return keeps_rows(op) && norm_warps(op.w.cols) <= warps_for(op.w) &&
         aligned(kNormRun, op.x, op.norm);
}

/// Whether few_rows() rotates too: pairs of eight neighbours then lie in one block. The bits are
/// the same.
bool rotates_itself(const op::Linear& op) {
  const Index head = op.rope.x.cols / op.rope.heads;
  return op.y.dtype == DType::bf16 && head % kLeft == 0 && head / 2 <= kMostPairs;
}

/// Whether few_rows() convolves too: spans are single tokens. The bits are the same.
bool convolves_itself(const op::Linear& op) {
  return op.y.dtype == DType::bf16 && op.conv.batch.longest == 1 && op.conv.x.cols % kLeft == 0;
}

void multiply_few_rows(CudaStream& stream, const op::Linear& op) {
  switch (warps_for(op.w)) {
    case 4: return launch_few_rows<4>(stream, op);
    case 8: return launch_few_rows<8>(stream, op);
    case 16: return launch_few_rows<16>(stream, op);
    default: return launch_few_rows<32>(stream, op);
  }
}

// ---- bias --------------------------------------------------------------------------------------

constexpr Index kBiasRows = 4096;  // that one thread adds in their order

/// sums[block] = the sum of a block of rows of dy; that of the only block begins with the old
/// value.
template <class T>
__global__ void add_rows(View sums, ConstView dy, bool begin_with_old) {
  const Index col = Index{blockIdx.x} * blockDim.x + threadIdx.x;
  if (col >= dy.cols) return;
  const Index first = Index{blockIdx.y} * kBiasRows, end = min(dy.rows, first + kBiasRows);
  float* to = sums.row<float>(blockIdx.y) + col;
  float sum = begin_with_old ? *to : 0;
#pragma unroll 8
  for (Index r = first; r < end; ++r) sum += to_float(dy.row<T>(r)[col]);
  *to = sum;
}

void add_bias_gradient(CudaStream& stream, const op::LinearBackward& op) {
  const Index blocks = ceil_div(op.dy.rows, kBiasRows);
  const dim3 grid(static_cast<unsigned>(ceil_div(op.dy.cols, 32)), static_cast<unsigned>(blocks));
  visit_float(op.dy.dtype, [&]<class T>() {
    if (blocks == 1) return launch(stream, add_rows<T>, grid, 32, 0, op.dbias, op.dy, true);
    const Matrix sums(stream, DType::f32, blocks, op.dy.cols);
    launch(stream, add_rows<T>, grid, 32, 0, sums.view(), op.dy, false);
    launch(stream, add_rows<float>, dim3(grid.x), 32, 0, op.dbias, ConstView(sums), true);
  });
}

// ---- many rows ---------------------------------------------------------------------------------

/// Whether our kernel is the faster one where both take a product: `script/bench cuda product`
/// prints both.
bool is_ours(const MatrixProduct& p) {
  constexpr bool kForward = true, kInputs = true, kWeights = true;
  return p.a_transposed ? kWeights : p.b_transposed ? kForward : kInputs;
}

bool library_takes(const MatrixProduct& p) {
  const int n = 16 / static_cast<int>(size_of(p.a.dtype));
  return aligned(n, p.a, p.b) && aligned(4, p.c);
}

void multiply(CudaStream& stream, const MatrixProduct& p, Index rows) {
  if (rows > kFewRows) {
    if (is_ours(p) && product::multiply(stream, p)) return;
    if (library_takes(p) && stream.blas().run(stream, p)) return;
  }
  multiply_any(stream, p);
}

void multiply_rows(CudaStream& stream, const op::Linear& op) {
  if (is_few_rows(op)) return multiply_few_rows(stream, op);
  multiply(stream,
           {.c = op.y, .a = op.x, .b = op.w, .b_transposed = true, .bias = op.bias, .add = op.add},
           op.x.rows);
}

// ---- gated -------------------------------------------------------------------------------------

View gates_of(View product) {
  return product.columns(0, product.cols / 2);
}
View ups_of(View product) {
  return product.columns(product.cols / 2, product.cols / 2);
}

void multiply_gated(CudaStream& stream, const op::Linear& op) {
  if (product::multiply_gated(stream, op)) return;
  Matrix scratch;
  View product = op.product;
  if (product.empty()) {
    scratch = Matrix(stream, op.dtype(), op.y.rows, op.outputs());
    product = scratch;
  }
  multiply_rows(stream, {.y = product, .x = op.x, .w = op.w, .bias = op.bias});
  run_on(stream, op::SwiGlu{.y = op.y, .gate = gates_of(product), .up = ups_of(product)});
}

void multiply_gated_backward(CudaStream& stream, const op::LinearBackward& op) {
  if (product::multiply_gated_backward(stream, op)) return;
  multiply(stream, {.c = op.again, .a = op.dy, .b = op.w}, op.dy.rows);
  const View gate = gates_of(op.product), up = ups_of(op.product);
  run_on(stream,
         op::SwiGluBackward{
             .dgate = gate, .dup = up, .y = op.again, .dy = op.again, .gate = gate, .up = up});
}

}  // namespace

/// A GPU's kernels read weights as they lie: a panel's memory holds the matrix row by row.
void run_on(CudaStream& stream, const op::PackLinear& op) {
  const auto bytes = [&](Index count) {
    return static_cast<std::size_t>(count * size_of(op.w.dtype));
  };
  transfer(stream, op.panels.data, bytes(op.w.cols), op.w.data, bytes(op.w.stride),
           bytes(op.w.cols), static_cast<std::size_t>(op.w.rows));
}

void run_on(CudaStream& stream, const op::Linear& call) {
  op::Linear op = call;
  if (op.packed) op.w = {op.w.data, op.outputs(), op.x.cols, op.x.cols, op.w.dtype};
  Matrix rows;
  if (!op.norm.empty() && !is_few_rows(op)) {
    rows = Matrix(stream, op.dtype(), op.x.rows, op.x.cols);
    run_on(stream, op::RmsNorm{.y = rows, .x = op.x, .w = op.norm, .eps = op.eps});
    op.x = rows;
    op.norm = {};
  }
  if (is_few_rows(op) && op.product.empty()) {
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
    multiply_few_rows(stream, op);
    if (rotates && op.rope.x.empty()) run_on(stream, call.rope);
    if (convolves && op.conv.x.empty()) run_on(stream, call.conv);
    return;
  }
  op.gated ? multiply_gated(stream, op) : multiply_rows(stream, op);
  if (!op.rope.x.empty()) run_on(stream, op.rope);
  if (!op.conv.x.empty()) run_on(stream, op.conv);
}

void run_on(CudaStream& stream, const op::LinearBackward& op) {
  if (!op.dx.empty())
    multiply(stream, {.c = op.dx, .a = op.dy, .b = op.w, .add = op.add_dx}, op.dy.rows);
  if (!op.product.empty()) multiply_gated_backward(stream, op);
  if (!op.dw.empty())
    multiply(stream, {.c = op.dw, .a = op.dy, .b = op.x, .a_transposed = true, .add = op.add_dw},
             op.dy.rows);
  if (!op.dbias.empty()) add_bias_gradient(stream, op);
}

}  // namespace samba
