#include <cmath>
#include <string>
#include <vector>

#include "kernels/adamw.h"
#include "kernels/cross_entropy.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/gated_norm.h"
#include "kernels/linear_attention.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
#include "kernels/run.h"
#include "kernels/swiglu.h"
#include "measure.h"
#include "rows.h"

namespace samba::bench {
namespace {

// 8 sequences of 4096 tokens at the widths of Samba_421M.
constexpr Index kSequences = 8, kLength = 4096, kTokens = kSequences * kLength;
constexpr Index kWidth = 1536, kInner = 4096, kVocabulary = 32000, kHeads = 12;

double bytes_of(const std::vector<ConstView>& views) {
  double sum = 0;
  for (const ConstView& v : views) sum += static_cast<double>(v.rows * v.cols * size_of(v.dtype));
  return sum;
}

/// Ids of which every 20th is the same, like those of text.
Matrix random_ids(Stream& stream) {
  const Matrix ids(stream.host(), DType::i32, kTokens, 1);
  std::uint32_t state = 1;
  for (Index n = 0; n < kTokens; ++n) {
    state = state * 1664525u + 1013904223u;
    *ids.row<std::int32_t>(n) =
        n % 20 == 0 ? 5 : static_cast<std::int32_t>((state >> 8) % kVocabulary);
  }
  return upload(stream, ids);
}

class Table {
 public:
  explicit Table(Stream& stream) : stream_(stream) {}

  template <class Op>
  void add(const std::string& job, double bytes, const Op& op, double flops = 0) {
    Row row{.job = job, .flops = flops, .bytes = bytes};
    row.seconds = median_seconds(stream_, [&] { run(stream_, op); });
    bench::add(rows_, row);
  }
  Matrix f32(Index rows, Index cols) { return random_matrix(stream_, DType::f32, rows, cols); }
  Matrix bf16(Index rows, Index cols) { return random_matrix(stream_, DType::bf16, rows, cols); }
  std::vector<Row> take() { return std::move(rows_); }

 private:
  Stream& stream_;
  std::vector<Row> rows_;
};

void add_norms(Table& table) {
  const Matrix x = table.f32(kTokens, kWidth), sum = table.f32(kTokens, kWidth);
  const Matrix add = table.bf16(kTokens, kWidth), y = table.bf16(kTokens, kWidth);
  const Matrix normal = table.bf16(kTokens, kWidth), rounded = table.bf16(kTokens, kWidth);
  const Matrix w = table.f32(1, kWidth), dw = table.f32(1, kWidth), scale = table.f32(kTokens, 1);
  table.add("rms_norm with residual", bytes_of({x, add, sum, normal, y}),
            op::RmsNorm{.y = y,
                        .sum = sum,
                        .normal = normal,
                        .scale = scale,
                        .x = x,
                        .add = add,
                        .w = w,
                        .eps = 1e-5});
  table.add("rms_norm backward", bytes_of({y, normal, sum, sum, rounded}),
            op::RmsNormBackward{.dx = sum,
                                .dw = dw,
                                .rounded = rounded,
                                .dy = y,
                                .normal = normal,
                                .w = w,
                                .scale = scale});
  const Matrix heads = table.f32(1, kWidth / kHeads), dheads = table.f32(1, kWidth / kHeads);
  const Matrix gate = table.bf16(kTokens, kWidth), dx = table.bf16(kTokens, kWidth);
  const Matrix dgate = table.bf16(kTokens, kWidth);
  table.add("gated_norm", bytes_of({add, gate, y}),
            op::GatedNorm{.y = y, .x = add, .gate = gate, .w = heads, .eps = 1e-5});
  table.add("gated_norm backward", bytes_of({y, add, gate, dx, dgate}),
            op::GatedNormBackward{.dx = dx,
                                  .dgate = dgate,
                                  .dw = dheads,
                                  .dy = y,
                                  .x = add,
                                  .gate = gate,
                                  .w = heads,
                                  .eps = 1e-5});
}

void add_elementwise(Table& table) {
  const Matrix gate = table.bf16(kTokens, kInner), up = table.bf16(kTokens, kInner);
  const Matrix y = table.bf16(kTokens, kInner), dgate = table.bf16(kTokens, kInner);
  const Matrix dup = table.bf16(kTokens, kInner);
  table.add("swiglu", bytes_of({gate, up, y}), op::SwiGlu{.y = y, .gate = gate, .up = up});
  table.add("swiglu backward", bytes_of({gate, up, y, dgate, dup}),
            op::SwiGluBackward{.dgate = dgate, .dup = dup, .dy = y, .gate = gate, .up = up});
  const Matrix wide = table.f32(kTokens, kInner);
  table.add("convert f32 to bf16", bytes_of({wide, y}), op::Convert{.to = y, .from = wide});
  table.add("convert bf16 to f32", bytes_of({wide, y}), op::Convert{.to = wide, .from = y});
  table.add("convert, bf16 added to f32", bytes_of({wide, wide, y}),
            op::Convert{.to = wide, .from = y, .add = true});
}

void add_tokens(Stream& stream, Table& table) {
  std::vector<Span> spans;
  for (Index s = 0; s < kSequences; ++s)
    spans.push_back({.first = s * kLength, .length = kLength, .position = 0});
  const Matrix x = table.bf16(kTokens, kWidth);
  table.add("rope, 12 heads of 128", bytes_of({x, x}),
            op::Rope{.x = x, .heads = kHeads, .base = 10000, .batch = batch_of(spans)});
  const Matrix tokens = random_ids(stream);
  {
    const Matrix w = table.bf16(kVocabulary, kWidth), y = table.f32(kTokens, kWidth);
    table.add("embedding", bytes_of({y, x}), op::Embedding{.y = y, .tokens = tokens, .w = w});
    const Matrix dw = table.f32(kVocabulary, kWidth);
    // About 20 000 rows of dw have a token.
    table.add("embedding backward", bytes_of({y}) + 2 * 4 * kWidth * 20000.0,
              op::EmbeddingBackward{.dw = dw, .dy = y, .tokens = tokens});
  }
  constexpr Index kShare = kTokens / 4;
  const Matrix logits = table.f32(kShare, kVocabulary), dlogits = table.bf16(kShare, kVocabulary);
  const Matrix loss = table.f32(kTokens, 1);
  table.add("cross_entropy with gradient, 8192 tokens", bytes_of({logits, dlogits}),
            op::CrossEntropy{.loss = loss.view().block(0, kShare),
                             .dlogits = dlogits,
                             .logits = logits,
                             .targets = tokens.view().block(0, kShare)});
}

void add_optimizer(Stream& stream, Table& table) {
  constexpr Index kParameters = 100'000'000;
  const Matrix w = table.f32(1, kParameters), m = table.f32(1, kParameters);
  const Matrix v(stream, DType::f32, 1, kParameters), gradient = table.f32(1, kParameters);
  clear(stream, v);
  const Matrix rounded = table.bf16(1, kParameters);
  table.add("adamw, 100M parameters", bytes_of({w, w, m, m, v, v, gradient, rounded}),
            op::AdamW{.w = w,
                      .rounded = rounded,
                      .m = m,
                      .v = v,
                      .gradient = gradient,
                      .lr = 1e-3,
                      .beta1 = 0.9,
                      .beta2 = 0.95,
                      .eps = 1e-8,
                      .weight_decay = 0.1,
                      .step = 3});
  const Matrix sum(stream, DType::f64, 1, 1);
  clear(stream, sum);
  table.add("sum_of_squares, 100M numbers", bytes_of({gradient}),
            op::SumOfSquares{.sum = sum, .x = gradient});
}

void add_linear_attention(Table& table, const std::string& name, Index heads, Index keys,
                          Index values, bool gated) {
  std::vector<Span> spans;
  for (Index s = 0; s < kSequences; ++s)
    spans.push_back({.first = s * kLength, .length = kLength, .position = 0});
  const Matrix q = table.bf16(kTokens, heads * keys), k = table.bf16(kTokens, heads * keys);
  const Matrix v = table.bf16(kTokens, heads * values), y = table.bf16(kTokens, heads * values);
  const Matrix dq = table.bf16(kTokens, heads * keys), dk = table.bf16(kTokens, heads * keys);
  const Matrix dv = table.bf16(kTokens, heads * values);
  const Matrix gate = gated ? table.bf16(kTokens, heads * keys) : Matrix();
  const Matrix dgate = gated ? table.bf16(kTokens, heads * keys) : Matrix();
  const double scale = 1 / std::sqrt(static_cast<double>(keys));
  // Of the recurrence itself: a product with the state and one to update it, for every token.
  const double flops = 4.0 * static_cast<double>(kTokens * heads * keys * values);
  table.add(name, bytes_of({q, k, v, y, gate}),
            op::LinearAttention{.y = y,
                                .q = q,
                                .k = k,
                                .v = v,
                                .gate = gate,
                                .heads = heads,
                                .scale = scale,
                                .batch = batch_of(spans)},
            flops);
  table.add(name + " backward", bytes_of({q, k, v, y, dq, dk, dv, gate, dgate}),
            op::LinearAttentionBackward{.dq = dq,
                                        .dk = dk,
                                        .dv = dv,
                                        .dgate = dgate,
                                        .dy = y,
                                        .q = q,
                                        .k = k,
                                        .v = v,
                                        .gate = gate,
                                        .heads = heads,
                                        .scale = scale,
                                        .batch = batch_of(spans)},
            3 * flops);
}

}  // namespace

std::vector<Row> rest_rows(Stream& stream) {
  Table table(stream);
  add_norms(table);
  add_elementwise(table);
  add_tokens(stream, table);
  add_optimizer(stream, table);
  // The layers of llama-438m-swa-gla and llama-446m-swa-ret.
  add_linear_attention(table, "gla, 4 heads of 192 x 384", 4, 192, 384, true);
  add_linear_attention(table, "retention, 6 heads of 256 x 512", 6, 256, 512, false);
  return table.take();
}

}  // namespace samba::bench
