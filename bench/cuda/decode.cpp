#include <algorithm>
#include <vector>

#include "core/error.h"
#include "kernels/linear.h"
#include "kernels/run.h"
#include "rows.h"

namespace samba::bench {
namespace {

/// A product as Samba 1.7B decodes with it.
struct Product {
  const char* name;
  Index inputs, outputs;
  bool normed = false, gated = false, adds = false;
};

/// One of a chain of products of few rows, each with a weight of its own, so that all come from
/// memory.
Row measure(Stream& stream, const Product& p, Index count) {
  constexpr double kBytes = 400e6;
  const double weight = 2.0 * static_cast<double>(p.inputs * p.outputs);
  const auto copies = static_cast<std::size_t>(std::clamp(kBytes / weight, 4.0, 400.0));
  std::vector<Matrix> weights;
  for (std::size_t i = 0; i < copies; ++i)
    weights.push_back(random_matrix(stream, DType::bf16, p.outputs, p.inputs, 0.02));
  const Matrix x = random_matrix(stream, p.normed ? DType::f32 : DType::bf16, count, p.inputs);
  const Matrix norm = random_matrix(stream, DType::f32, 1, p.inputs);
  const Matrix y(stream, p.adds ? DType::f32 : DType::bf16, count,
                 p.gated ? p.outputs / 2 : p.outputs);
  clear(stream, y);
  const auto work = [&] {
    for (const Matrix& w : weights)
      run(stream, op::Linear{.y = y,
                             .x = x,
                             .w = w,
                             .add = p.adds,
                             .gated = p.gated,
                             .norm = p.normed ? norm.view() : View{},
                             .eps = 1e-5});
  };
  work();
  Recording recording(stream, work);
  Row row{.job = text_of("decode ", p.name, ", ", p.inputs, " to ", p.outputs, ", ", count,
                         count == 1 ? " row" : " rows")};
  row.seconds = median_seconds(stream, [&] { recording.run(); }) / static_cast<double>(copies);
  row.bytes = weight;
  return row;
}

}  // namespace

/// The products between two tokens of 1 to 64 sequences, as a recording queues them.
std::vector<Row> decode_rows(Stream& stream) {
  std::vector<Row> rows;
  for (const Index count : {1, 4, 16, 64})
    for (const Product& p :
         {Product{.name = "mamba in", .inputs = 2048, .outputs = 8192, .normed = true},
          Product{.name = "mamba x", .inputs = 4096, .outputs = 160},
          Product{.name = "mamba dt", .inputs = 128, .outputs = 4096},
          Product{.name = "mamba out", .inputs = 4096, .outputs = 2048, .adds = true},
          Product{.name = "gate and up",
                  .inputs = 2048,
                  .outputs = 16384,
                  .normed = true,
                  .gated = true},
          Product{.name = "down", .inputs = 8192, .outputs = 2048, .adds = true},
          Product{.name = "qkv", .inputs = 2048, .outputs = 2560, .normed = true},
          Product{.name = "attention out", .inputs = 2048, .outputs = 2048, .adds = true},
          Product{.name = "head", .inputs = 2048, .outputs = 32000}}) {
      add(rows, measure(stream, p, count));
      stream.pool()->clear();
    }
  return rows;
}

}  // namespace samba::bench
