#include <vector>

#include "kernels/cuda/attention_backward_parts.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/cuda/vector.cuh"

// On the tensor cores of any GPU from sm_80 on, bf16 of any width that is a multiple of 8: a block
// owns 64 rows of one gradient, or a slice of their columns, and meets the rows on the other side
// in blocks of 64. All factors pass through shared memory in pieces of 64 columns.
namespace samba::attention {
namespace {

constexpr int kRows = 64;
constexpr int kCols = 64;  ///< of a piece
constexpr int kThreads = 128;
constexpr int kStages = 3;
constexpr int kPieceBytes = kRows * kCols * 2;

/// One factor of a product: rows of a head.
struct Factor {
  const Bf16* data;
  Index stride;
  int rows;  ///< that are there
  int cols;  ///< of which pieces are taken
};

__device__ inline Factor factor_of(const ConstView& view, Index row, Index rows, Index col,
                                   Index cols) {
  return {view.row<Bf16>(row) + col, view.stride, static_cast<int>(min(Index{kRows}, rows)),
          static_cast<int>(cols)};
}

/// The unit of 16 bytes of a piece's row, where rows of 128 bytes are swizzled.
__device__ inline unsigned char* unit_of(unsigned char* piece, int row, int unit) {
  return piece + row * 128 + ((unit ^ row % 8) << 4);
}

__device__ inline void copy_piece(unsigned char* to, const Factor& from, int col) {
#pragma unroll
  for (int i = 0; i < kRows * 8 / kThreads; ++i) {
    const int at = i * kThreads + threadIdx.x, row = at / 8, unit = at % 8;
    const bool there = row < from.rows && col + unit * 8 < from.cols;
    copy_async(unit_of(to, row, unit),
               from.data + (there ? row * from.stride + col + unit * 8 : Index{0}), there);
  }
}

/// The block's own rows against those that it meets, one block of them after another.
template <Gradient gradient, int slice>
struct Differentiation {
  static constexpr bool kOfQueries = gradient == Gradient::dq;
  static constexpr int kSlicePieces = slice / kCols;
  const op::AttentionBackward& op;
  const ConstView& delta;
  Span span;
  Index own;  ///< the first of its rows
  Index own_end;
  Index begin;  ///< of the rows that it meets
  Index end;
  Index first_head;
  Index kv_head;
  int slice_col;
  int score_pieces, slope_pieces;
  int blocks;  ///< that it meets of one head

  __device__ int pieces() const { return score_pieces + slope_pieces + kSlicePieces; }

  __device__ Factor queries(const ConstView& view, Index head, Index met, Index cols) const {
    const Index row = kOfQueries ? own : met;
    return factor_of(view, span.first + row, (kOfQueries ? own_end : end) - row, head * cols, cols);
  }
  __device__ Factor keys(const ConstView& view, Index met, Index cols) const {
    const Index row = kOfQueries ? met : own;
    return factor_of(view, span.first + row, (kOfQueries ? end : own_end) - row, kv_head * cols,
                     cols);
  }

  /// Begins to copy the pieces that step number `step` multiplies.
  __device__ void copy_step(unsigned char (&to)[2][kPieceBytes], int step) const {
    const int block = step / pieces(), piece = step % pieces();
    const Index head = first_head + block / blocks, met = begin + block % blocks * kRows;
    const Index width = op.heads.width, value_width = op.heads.value_width;
    if (piece < score_pieces) {
      const Factor q = queries(op.q, head, met, width), k = keys(op.k, met, width);
      copy_piece(to[0], kOfQueries ? q : k, piece * kCols);
      copy_piece(to[1], kOfQueries ? k : q, piece * kCols);
    } else if (piece < score_pieces + slope_pieces) {
      const Factor dy = queries(op.dy, head, met, value_width), v = keys(op.v, met, value_width);
      const int col = (piece - score_pieces) * kCols;
      copy_piece(to[0], kOfQueries ? dy : v, col);
      copy_piece(to[1], kOfQueries ? v : dy, col);
    } else {
      const int col = slice_col + (piece - score_pieces - slope_pieces) * kCols;
      copy_piece(to[0],
                 gradient == Gradient::dq   ? keys(op.k, met, width)
                 : gradient == Gradient::dk ? queries(op.q, head, met, width)
                                            : queries(op.dy, head, met, value_width),
                 col);
    }
  }

  /// From scores and the gradients of weights to the weights or the gradients of scores.
  __device__ void weigh(float (&scores)[kRows / 8][4], const float (&slopes)[kRows / 8][4],
                        int block) const {
    const Index head = first_head + block / blocks, met = begin + block % blocks * kRows;
    const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4, col = threadIdx.x % 4 * 2;
    const float scale = static_cast<float>(op.scale * kLog2e);
#pragma unroll
    for (int j = 0; j < kRows / 8; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const Index own_row = own + row + i / 2 * 8, met_row = met + 8 * j + col + i % 2;
        const Index query = kOfQueries ? own_row : met_row, key = kOfQueries ? met_row : own_row;
        float weight = 0;
        if (query < (kOfQueries ? own_end : end) && key <= query &&
            query <= last_seeing(op, span.position, key)) {
          const float lse = op.lse.row<float>(span.first + query)[head];
          weight = exp2f(scores[j][i] * scale - lse * static_cast<float>(kLog2e));
          if constexpr (gradient != Gradient::dv)
            weight *= slopes[j][i] - delta.row<float>(span.first + query)[head];
        }
        scores[j][i] = weight;
      }
  }
};

/// d [16 own rows of the warp, 64 met rows] += a b^T, of one piece of each.
__device__ inline void multiply(float (&d)[kRows / 8][4], unsigned char (&pieces)[2][kPieceBytes]) {
  const int lane = threadIdx.x % 32, row = threadIdx.x / 32 * 16;
#pragma unroll
  for (int k = 0; k < kCols / 16; ++k) {
    std::uint32_t a[4], b[4];
    load_blocks(a, unit_of(pieces[0], row + lane % 16, 2 * k + lane / 16));
#pragma unroll
    for (int j = 0; j < kRows / 8; j += 2) {
      load_blocks(b, unit_of(pieces[1], 8 * j + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
      multiply_add(d[j], a, b[0], b[1]);
      multiply_add(d[j + 1], a, b[2], b[3]);
    }
  }
}

/// d [16 own rows of the warp, 64 columns] += weights [16, 64 met rows] b.
__device__ inline void accumulate(float (&d)[kCols / 8][4],
                                  const std::uint32_t (&weights)[kRows / 16][4],
                                  unsigned char (&b)[kPieceBytes]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < kRows / 16; ++k)
#pragma unroll
    for (int j = 0; j < kCols / 8; j += 2) {
      std::uint32_t x[4];
      load_blocks_transposed(x, unit_of(b, 16 * k + lane % 16, j + lane / 16));
      multiply_add(d[j], weights[k], x[0], x[1]);
      multiply_add(d[j + 1], weights[k], x[2], x[3]);
    }
}

/// blockIdx.y is the head of the gradient, blockIdx.z its slice of columns.
template <Gradient gradient, int slice>
__global__ void __launch_bounds__(kThreads)
    differentiate(const op::AttentionBackward op, const ConstView delta, const Tile* tiles) {
  using Work = Differentiation<gradient, slice>;
  constexpr bool kOfQueries = Work::kOfQueries;
  extern __shared__ __align__(128) unsigned char memory[];
  auto& stages = *reinterpret_cast<unsigned char (*)[kStages][2][kPieceBytes]>(memory);
  const Tile tile = tiles[blockIdx.x];
  const Span span = op.batch.spans[tile.span];
  const Index group = op.heads.heads / op.heads.kv_heads;
  const Index own_end = min(tile.first + kRows, span.length);
  const Index begin = kOfQueries ? first_seen(op, span.position, tile.first) : tile.first;
  const Index end =
      kOfQueries ? own_end : min(span.length, last_seeing(op, span.position, own_end - 1) + 1);
  const auto pieces_of = [](Index width) {
    return static_cast<int>(ceil_div(width, Index{kCols}));
  };
  const Work work{.op = op,
                  .delta = delta,
                  .span = span,
                  .own = tile.first,
                  .own_end = own_end,
                  .begin = begin,
                  .end = end,
                  .first_head = kOfQueries ? Index{blockIdx.y} : blockIdx.y * group,
                  .kv_head = kOfQueries ? blockIdx.y / group : Index{blockIdx.y},
                  .slice_col = static_cast<int>(blockIdx.z) * slice,
                  .score_pieces = pieces_of(op.heads.width),
                  .slope_pieces = gradient == Gradient::dv ? 0 : pieces_of(op.heads.value_width),
                  .blocks = static_cast<int>(ceil_div(end - begin, Index{kRows}))};
  const int pieces = work.pieces();
  const int steps = pieces * work.blocks * (kOfQueries ? 1 : static_cast<int>(group));

  float sums[slice / kCols][kCols / 8][4] = {};
  float scores[kRows / 8][4] = {}, slopes[kRows / 8][4] = {};
  std::uint32_t weights[kRows / 16][4];
#pragma unroll
  for (int step = 0; step < kStages - 1; ++step) {
    if (step < steps) work.copy_step(stages[step], step);
    copy_async_commit();
  }
  for (int step = 0; step < steps; ++step) {
    copy_async_wait<kStages - 2>();
    __syncthreads();
    const int next = step + kStages - 1;
    if (next < steps) work.copy_step(stages[next % kStages], next);
    copy_async_commit();
    auto& stage = stages[step % kStages];
    const int piece = step % pieces;
    if (piece < work.score_pieces)
      multiply(scores, stage);
    else if (piece < pieces - Work::kSlicePieces)
      multiply(slopes, stage);
    if (piece == pieces - Work::kSlicePieces - 1) {
      work.weigh(scores, slopes, step / pieces);
#pragma unroll
      for (int i = 0; i < kRows / 4; ++i)
        weights[i / 4][i % 4] = pack_bf16(scores[i / 2][i % 2 * 2], scores[i / 2][i % 2 * 2 + 1]);
#pragma unroll
      for (int i = 0; i < kRows / 2; ++i) scores[i / 4][i % 4] = slopes[i / 4][i % 4] = 0;
    }
#pragma unroll
    for (int i = 0; i < Work::kSlicePieces; ++i)
      if (piece == pieces - Work::kSlicePieces + i) accumulate(sums[i], weights, stage[0]);
  }

  const View to = gradient == Gradient::dq ? op.dq : gradient == Gradient::dk ? op.dk : op.dv;
  const Index width = gradient == Gradient::dv ? op.heads.value_width : op.heads.width;
  const float factor = gradient == Gradient::dv ? 1.0f : static_cast<float>(op.scale);
  const int row = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const Index at = tile.first + row + 8 * half;
    if (at >= own_end) continue;
    Bf16* out = to.row<Bf16>(span.first + at) + Index{blockIdx.y} * width;
#pragma unroll
    for (int j = 0; j < slice / 8; ++j) {
      const Index col = work.slice_col + 8 * j + threadIdx.x % 4 * 2;
      const float* d = sums[j / 8][j % 8] + 2 * half;
      if (col < width)
        *reinterpret_cast<std::uint32_t*>(out + col) = pack_bf16(d[0] * factor, d[1] * factor);
    }
  }
}

template <Gradient gradient>
void differentiate_rows(CudaStream& stream, const op::AttentionBackward& op, ConstView delta,
                        const Tile* tiles, std::size_t count) {
  const Index heads = gradient == Gradient::dq ? op.heads.heads : op.heads.kv_heads;
  const Index width = gradient == Gradient::dv ? op.heads.value_width : op.heads.width;
  const auto with = [&]<int slice>() {
    const dim3 grid(static_cast<unsigned>(count), static_cast<unsigned>(heads),
                    static_cast<unsigned>(ceil_div(width, Index{slice})));
    launch(stream, differentiate<gradient, slice>, grid, kThreads, kStages * 2 * kPieceBytes, op,
           delta, tiles);
  };
  if (width <= 64)
    with.template operator()<64>();
  else if (width <= 128)
    with.template operator()<128>();
  else
    with.template operator()<256>();
}

}  // namespace

bool differentiate_on_tensor_cores(CudaStream& stream, const op::AttentionBackward& op,
                                   std::span<const Span> spans) {
  if (op.dtype() != DType::bf16 || op.heads.width % 8 != 0 || op.heads.value_width % 8 != 0 ||
      !aligned(8, op.q, op.k, op.v, op.dy, op.dq, op.dk, op.dv))
    return false;
  std::vector<Tile> tiles;
  for (std::size_t i = 0; i < spans.size(); ++i)
    for (Index first = 0; first < spans[i].length; first += kRows)
      tiles.push_back({static_cast<Index>(i), first});
  const Tile* device_tiles = stream.resident(std::span<const Tile>(tiles));
  const Matrix delta = dots(stream, op);
  differentiate_rows<Gradient::dv>(stream, op, delta, device_tiles, tiles.size());
  differentiate_rows<Gradient::dk>(stream, op, delta, device_tiles, tiles.size());
  differentiate_rows<Gradient::dq>(stream, op, delta, device_tiles, tiles.size());
  return true;
}

}  // namespace samba::attention
