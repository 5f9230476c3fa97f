#include "kernels/cuda/linear_attention_chunks.cuh"

namespace samba {
namespace {

// The logarithm of a decay at t takes part in all pairs j < t <= i, and those are what remains of
//   sum over t' >= t of q_t' dq_t' - k_t' dk_t'.
// The walks leave the terms in `pairs`; three kernels make the sums: of every tile, of all tiles
// behind each, and of the tokens of a tile.

struct Gates {
  View dgate;
  ConstView gate;
  View pairs;
  Index pair_step;  ///< columns of a head in pairs
  Index keys;       ///< and in gate
  View totals;      ///< [tiles, H K]
  Batch batch;
};

constexpr int kGateThreads = 128;

__device__ inline const float* pairs_of(const Gates& p, Index row, Index channel) {
  return p.pairs.row<float>(row) + channel / p.keys * p.pair_step + channel % p.keys;
}

__global__ void __launch_bounds__(kGateThreads) add_tiles(const Gates p) {
  const Tile tile = tile_of(p.batch, blockIdx.x);
  const Index channel = Index{blockIdx.y} * kGateThreads + threadIdx.x;
  if (channel >= p.gate.cols) return;
  const float* pairs = pairs_of(p, tile.row, channel);
  float sum = 0;
#pragma unroll 8
  for (Index t = tile.count - 1; t >= 0; --t) sum += pairs[t * p.pairs.stride];
  p.totals.row<float>(blockIdx.x)[channel] = sum;
}

/// Replaces the total of every tile by that of those behind it in its span.
__global__ void __launch_bounds__(kGateThreads) add_later_tiles(const Gates p) {
  const Index channel = Index{blockIdx.y} * kGateThreads + threadIdx.x, index = blockIdx.x;
  if (channel >= p.gate.cols) return;
  const Span span = p.batch.spans[index];
  const Index first = first_tile(span, index), count = ceil_div(span.length, Index{kTile});
  float sum = 0;
#pragma unroll 4
  for (Index tile = first + count - 1; tile >= first; --tile) {
    float& total = p.totals.row<float>(tile)[channel];
    const float here = total;
    total = sum;
    sum += here;
  }
}

template <class T>
__global__ void __launch_bounds__(kGateThreads) gate_gradient(const Gates p) {
  const Tile tile = tile_of(p.batch, blockIdx.x);
  const Index channel = Index{blockIdx.y} * kGateThreads + threadIdx.x;
  if (tile.count == 0 || channel >= p.gate.cols) return;
  const float* pairs = pairs_of(p, tile.row, channel);
  float sum = p.totals.row<float>(blockIdx.x)[channel];
#pragma unroll 8
  for (Index t = tile.count - 1; t >= 0; --t) {
    sum += pairs[t * p.pairs.stride];
    const float gate = to_float(p.gate.row<T>(tile.row + t)[channel]);
    p.dgate.row<T>(tile.row + t)[channel] = from_float<T>(sum * decay_slope<T>(gate));
  }
}

template <class T>
void run_gates(CudaStream& stream, Gates p) {
  const Index tiles = count_tiles(p.batch);
  const auto across = static_cast<unsigned>(ceil_div(p.gate.cols, Index{kGateThreads}));
  const Matrix totals(stream, DType::f32, tiles, p.gate.cols);
  p.totals = totals;
  const dim3 all(static_cast<unsigned>(tiles), across);
  launch(stream, add_tiles, all, kGateThreads, 0, p);
  launch(stream, add_later_tiles, dim3(static_cast<unsigned>(p.batch.count), across), kGateThreads,
         0, p);
  launch(stream, gate_gradient<T>, all, kGateThreads, 0, p);
}

template <class T>
void run_tokens(CudaStream& stream, const op::LinearAttentionBackward& op, Index longest,
                View pairs, Index pair_step) {
  const Index keys = op.q.cols / op.heads, values = op.dy.cols / op.heads;
  Recurrence r{.result = op.dv,
               .query = op.k,
               .key = op.q,
               .value = op.dy,
               .gate = op.gate,
               .heads = op.heads,
               .rows = keys,
               .cols = values,
               .scale = static_cast<float>(op.scale),
               .batch = op.batch,
               .longest = longest};
  if (values > 0) walk_by_tokens<T, true, false>(stream, r);
  if (keys == 0) return;
  r.rows = values;
  r.cols = keys;
  r.pairs = pairs;
  r.pair_step = pair_step;
  r.result = op.dq;
  r.query = op.dy;
  r.key = op.v;
  r.value = op.k;
  r.own = op.q;
  walk_by_tokens<T, false, true>(stream, r);
  r.result = op.dk;
  r.query = op.v;
  r.key = op.dy;
  r.value = op.q;
  r.own = op.k;
  walk_by_tokens<T, true, true>(stream, r);
}

void run_chunks(CudaStream& stream, const op::LinearAttentionBackward& op, const Prepared& prepared,
                View pairs) {
  const Index keys = op.q.cols / op.heads, values = op.dy.cols / op.heads;
  const Chunks& chunks = prepared.chunks;
  Sweep p{.query = chunks.key,
          .key = chunks.query,
          .value = op.dy,
          .valid = chunks.width,
          .value_valid = values,
          .chunks = chunks,
          .scores = nullptr,
          .result = op.dv,
          .result_valid = values,
          .heads = op.heads,
          .scale = static_cast<float>(op.scale),
          .batch = op.batch};
  {
    const Matrix scores = score(stream, op.batch, chunks, chunks.query, chunks.key, op.heads);
    p.scores = scores.row<Bf16>(0);
    walk_rows_by_chunks<true>(stream, p);
  }
  const Matrix scores = score(stream, op.batch, chunks, op.dy, op.v, op.heads);
  p.scores = scores.row<Bf16>(0);
  p.valid = values;
  p.value_valid = chunks.width;
  p.result_valid = keys;
  p.pairs = pairs;
  p.result = op.dq;
  p.query = op.dy;
  p.key = op.v;
  p.value = chunks.key;
  p.own = chunks.query;
  walk_columns_by_chunks<false>(stream, p);
  p.result = op.dk;
  p.query = op.v;
  p.key = op.dy;
  p.value = chunks.query;
  p.own = chunks.key;
  walk_columns_by_chunks<true>(stream, p);
}

}  // namespace

void run_on(CudaStream& stream, const op::LinearAttentionBackward& given) {
  op::LinearAttentionBackward op = given;
  const Index keys = op.q.cols / op.heads, values = op.dy.cols / op.heads;
  if (op.batch.count == 0) return;
  op.batch.spans =
      stream.resident(std::span(op.batch.spans, static_cast<std::size_t>(op.batch.count)));
  const bool chunked = serves_chunks(op.dtype(), op.batch, keys, values) && keys % 2 == 0 &&
                       aligned(8, op.v, op.dy) && aligned(2, op.dq, op.dk, op.dv);
  Index longest = op.batch.longest, pair_step = keys;
  Prepared prepared;
  if (chunked) {
    prepared = prepare(stream, {.q = op.q,
                                .k = op.k,
                                .gate = op.gate,
                                .heads = op.heads,
                                .scale = static_cast<float>(op.scale),
                                .batch = op.batch,
                                .to = {},
                                .all_sums = true});
    longest = longest_short(given.batch);
    pair_step = prepared.chunks.width;
  }
  Matrix pairs;
  if (!op.gate.empty()) pairs = Matrix(stream, DType::f32, op.q.rows, op.heads * pair_step);
  if (chunked) run_chunks(stream, op, prepared, pairs);
  visit_float(op.dtype(), [&]<class T>() {
    if (longest > 0) run_tokens<T>(stream, op, longest, pairs, pair_step);
    if (!op.gate.empty() && keys > 0)
      run_gates<T>(stream, {.dgate = op.dgate,
                            .gate = op.gate,
                            .pairs = pairs,
                            .pair_step = pair_step,
                            .keys = keys,
                            .totals = {},
                            .batch = op.batch});
  });
}

}  // namespace samba
