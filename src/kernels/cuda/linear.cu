#include <algorithm>

#include "core/cuda_blas.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vector.cuh"
#include "kernels/linear.h"

// Products of matrices take one of three ways:
//   library   cuBLASLt: many rows
//   few rows  at most kFewRows of bf16: reading the weight once is what takes the time
//   any       every other: odd widths and strides, few rows of f32
// The last two give a row the same bits in any company. So does the library for one number of rows;
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

constexpr int kStep = 32;  // inputs that a warp multiplies at a time
constexpr int kAhead = 4;  // steps whose weights are on their way

__device__ uint4 load_once(const Bf16* from) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}

/// c += a b over 16 x 16 and 16 x 8 bf16.
__device__ void multiply_add(float (&c)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3,
                             unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/// A block makes 16 columns of y for up to 8 * tiles rows; its warps share the inputs, a step of
/// them in turn, and add up in order. A weight is a row of the tensor core's left
/// factor, so rows of x are columns of its right one: each by itself.
///
/// Inside a step the core's order of inputs is free, as long as both factors have it: lane t of
/// four takes 8 neighbours of each row, in one access.
template <int tiles, int warps, class Y>
__global__ __launch_bounds__(warps * 32) void few_rows(const op::Linear op) {
  extern __shared__ float partial[];  // [warps][16][8 * tiles]
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = lane / 4, t = lane % 4;
  const Index o0 = Index{blockIdx.x} * 16, n0 = Index{blockIdx.y} * 8 * tiles;
  const Index inputs = op.x.cols, steps = ceil_div(inputs, Index{kStep});
  float sum[tiles][4] = {};

  const Bf16* weight[2];
  bool real[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const Index row = o0 + half * 8 + group;
    real[half] = row < op.y.cols;
    weight[half] = op.w.row<Bf16>(real[half] ? row : 0) + t * 8;
  }
  const Bf16* input[tiles];
  bool used[tiles];
#pragma unroll
  for (int n = 0; n < tiles; ++n) {
    const Index row = n0 + n * 8 + group;
    used[n] = row < op.x.rows;
    input[n] = op.x.row<Bf16>(used[n] ? row : 0) + t * 8;
  }

  for (Index first = warp; first < steps; first += warps * kAhead) {
    uint4 w[kAhead][2];
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const Index k = (first + a * warps) * kStep;
#pragma unroll
      for (int half = 0; half < 2; ++half)
        w[a][half] =
            real[half] && k + t * 8 < inputs ? load_once(weight[half] + k) : uint4{0, 0, 0, 0};
    }
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const Index k = (first + a * warps) * kStep;
      if (k >= inputs) break;
#pragma unroll
      for (int n = 0; n < tiles; ++n) {
        const uint4 x = used[n] && k + t * 8 < inputs
                            ? *reinterpret_cast<const uint4*>(input[n] + k)
                            : uint4{0, 0, 0, 0};
        const uint4 &high = w[a][0], &low = w[a][1];
        multiply_add(sum[n], high.x, low.x, high.y, low.y, x.x, x.y);
        multiply_add(sum[n], high.z, low.z, high.w, low.w, x.z, x.w);
      }
    }
  }

  constexpr int kRows = 8 * tiles, kColumns = 16;
#pragma unroll
  for (int n = 0; n < tiles; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int column = group + (i / 2) * 8, row = n * 8 + t * 2 + i % 2;
      partial[(warp * kColumns + column) * kRows + row] = sum[n][i];
    }
  __syncthreads();
  for (int i = threadIdx.x; i < kRows * kColumns; i += warps * 32) {
    const int column = i % kColumns, row = i / kColumns;
    if (n0 + row >= op.y.rows || o0 + column >= op.y.cols) continue;
    Y* y = op.y.row<Y>(n0 + row) + o0 + column;
    float total = op.add            ? to_float(*y)
                  : op.bias.empty() ? 0.0f
                                    : op.bias.row<float>(0)[o0 + column];
#pragma unroll
    for (int w = 0; w < warps; ++w) total += partial[(w * kColumns + column) * kRows + row];
    *y = from_float<Y>(total);
  }
}

template <int tiles, int warps>
void launch_few_rows(CudaStream& stream, const op::Linear& op) {
  const dim3 grid(static_cast<unsigned>(ceil_div(op.y.cols, 16)),
                  static_cast<unsigned>(ceil_div(op.y.rows, 8 * tiles)));
  constexpr std::size_t kShared = std::size_t{warps} * 16 * 8 * tiles * sizeof(float);
  visit_float(op.y.dtype, [&]<class Y>() {
    launch(stream, few_rows<tiles, warps, Y>, grid, warps * 32, kShared, op);
  });
}

/// Few blocks need many warps each to keep the memory busy. The order of the sums depends on that,
/// so it must not depend on the rows.
template <int tiles>
void launch_few_rows(CudaStream& stream, const op::Linear& op) {
  constexpr Index kFewBlocks = 256;
  if (op.y.cols <= 16 * kFewBlocks)
    launch_few_rows<tiles, 16>(stream, op);
  else
    launch_few_rows<tiles, 8>(stream, op);
}

void multiply_few_rows(CudaStream& stream, const op::Linear& op) {
  if (op.y.rows <= 8)
    launch_few_rows<1>(stream, op);
  else if (op.y.rows <= 16)
    launch_few_rows<2>(stream, op);
  else if (op.y.rows <= 32)
    launch_few_rows<4>(stream, op);
  else
    launch_few_rows<8>(stream, op);
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

bool library_takes(const MatrixProduct& p) {
  const int n = 16 / static_cast<int>(size_of(p.a.dtype));
  return aligned(n, p.a, p.b) && aligned(4, p.c);
}

void multiply(CudaStream& stream, const MatrixProduct& p, Index rows) {
  if (rows > kFewRows && library_takes(p) && stream.blas().run(stream, p)) return;
  multiply_any(stream, p);
}

}  // namespace

/// A GPU's kernels read weights as they lie: a panel's memory holds the matrix row by row.
void run_on(CudaStream& stream, const op::PackLinear& op) {
  const auto bytes = [&](Index count) {
    return static_cast<std::size_t>(count * size_of(op.w.dtype));
  };
  cuda_check(cudaMemcpy2DAsync(op.panels.data, bytes(op.w.cols), op.w.data, bytes(op.w.stride),
                               bytes(op.w.cols), static_cast<std::size_t>(op.w.rows),
                               cudaMemcpyDefault, stream.get()));
}

void run_on(CudaStream& stream, const op::Linear& packed) {
  op::Linear op = packed;
  if (op.packed) op.w = {op.w.data, op.y.cols, op.x.cols, op.x.cols, op.w.dtype};
  if (op.dtype() == DType::bf16 && op.x.rows <= kFewRows && aligned(8, op.x, op.w))
    return multiply_few_rows(stream, op);
  multiply(stream,
           {.c = op.y, .a = op.x, .b = op.w, .b_transposed = true, .bias = op.bias, .add = op.add},
           op.x.rows);
}

void run_on(CudaStream& stream, const op::LinearBackward& op) {
  if (!op.dx.empty())
    multiply(stream, {.c = op.dx, .a = op.dy, .b = op.w, .add = op.add_dx}, op.dy.rows);
  if (!op.dw.empty())
    multiply(stream, {.c = op.dw, .a = op.dy, .b = op.x, .a_transposed = true, .add = op.add_dw},
             op.dy.rows);
  if (!op.dbias.empty()) add_bias_gradient(stream, op);
}

}  // namespace samba
