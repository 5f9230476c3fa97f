#include "kernels/cuda/linear_attention_chunks.cuh"

namespace samba {
namespace {

Recurrence recurrence_of(const op::LinearAttention& op) {
  return {.result = op.y,
          .query = op.q,
          .key = op.k,
          .value = op.v,
          .gate = op.gate,
          .heads = op.heads,
          .rows = op.q.cols / op.heads,
          .cols = op.y.cols / op.heads,
          .scale = static_cast<float>(op.scale),
          .batch = op.batch,
          .state = op.state,
          .longest = op.batch.longest};
}

void run_chunks(CudaStream& stream, const op::LinearAttention& op) {
  const auto scale = static_cast<float>(op.scale);
  const Prepared prepared = prepare(stream, {.q = op.q,
                                             .k = op.k,
                                             .gate = op.gate,
                                             .heads = op.heads,
                                             .scale = scale,
                                             .batch = op.batch,
                                             .to = {},
                                             .all_sums = false});
  const Chunks& chunks = prepared.chunks;
  const Matrix scores = score(stream, op.batch, chunks, chunks.query, chunks.key, op.heads);
  const Index values = op.y.cols / op.heads;
  walk_rows_by_chunks<false>(stream, {.query = chunks.query,
                                      .key = chunks.key,
                                      .value = op.v,
                                      .valid = chunks.width,
                                      .value_valid = values,
                                      .chunks = chunks,
                                      .scores = scores.row<Bf16>(0),
                                      .result = op.y,
                                      .result_valid = values,
                                      .heads = op.heads,
                                      .scale = scale,
                                      .batch = op.batch,
                                      .state = op.state,
                                      .state_rows = op.q.cols / op.heads});
}

}  // namespace

void run_on(CudaStream& stream, const op::LinearAttention& given) {
  op::LinearAttention op = given;
  const Index keys = op.q.cols / op.heads, values = op.y.cols / op.heads;
  if (op.batch.count == 0 || values == 0) return;
  op.batch.spans =
      stream.resident(std::span(op.batch.spans, static_cast<std::size_t>(op.batch.count)));
  Recurrence rest = recurrence_of(op);
  if (serves_chunks(op.dtype(), op.batch, keys, values) && aligned(8, op.y, op.v)) {
    run_chunks(stream, op);
    rest.longest = longest_short(given.batch);
  }
  if (rest.longest == 0) return;
  visit_float(op.dtype(), [&]<class T>() { walk_by_tokens<T, false, false>(stream, rest); });
}

}  // namespace samba
