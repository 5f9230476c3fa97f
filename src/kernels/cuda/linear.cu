#include <algorithm>

#include "core/cuda_blas.h"
#include "kernels/cuda/few_rows.cuh"
#include "kernels/cuda/gated_product.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/vector.cuh"
#include "kernels/linear.h"
#include "kernels/rms_norm.h"
#include "kernels/swiglu.h"

// Products of matrices take one of four ways:
//   gated     many rows of bf16 on Hopper whose results meet in an op::SwiGlu: gated_product.cu
//   library   cuBLASLt: many rows
//   few rows  of bf16, few_rows.cu: reading the weight once is what takes the time
//   any       every other: odd widths and strides, few rows of f32
// The last two give a row the same bits in any company. So do the others for one number of rows;
// who mixes sequences in a pass mixes few rows only.

namespace samba {
namespace {

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

bool library_takes(const MatrixProduct& p) {
  const int n = 16 / static_cast<int>(size_of(p.a.dtype));
  return aligned(n, p.a, p.b) && aligned(4, p.c);
}

void multiply(CudaStream& stream, const MatrixProduct& p, Index rows) {
  if (rows > few_rows::kMostRows && library_takes(p) && stream.blas().run(stream, p)) return;
  multiply_any(stream, p);
}

void multiply_rows(CudaStream& stream, const op::Linear& op) {
  if (few_rows::takes(stream, op)) return few_rows::multiply(stream, op);
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
  if (gated_product::multiply(stream, op)) return;
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
  if (gated_product::multiply(stream, op)) return;
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
  if (!op.norm.empty() && !few_rows::takes(stream, op)) {
    rows = Matrix(stream, op.dtype(), op.x.rows, op.x.cols);
    run_on(stream, op::RmsNorm{.y = rows, .x = op.x, .w = op.norm, .eps = op.eps});
    op.x = rows;
    op.norm = {};
  }
  if (few_rows::takes(stream, op) && op.product.empty()) return few_rows::multiply(stream, op);
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
