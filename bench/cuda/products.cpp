#include "core/error.h"
#include "kernels/linear.h"
#include "kernels/run.h"
#include "rows.h"

namespace samba::bench {

/// The products of a training step of Samba_421M over 8 x 4096 tokens: forward, and backward by
/// inputs and by weights.
std::vector<Row> product_rows(Stream& stream) {
  constexpr Index kTokens = 32768;
  struct Shape {
    const char* name;
    Index rows, inputs, outputs;
  };
  std::vector<Row> rows;
  for (const Shape& s : {Shape{"mamba in", kTokens, 1536, 6144},
                         {"mamba x", kTokens, 3072, 128},
                         {"mamba dt", kTokens, 96, 3072},
                         {"mamba out", kTokens, 3072, 1536},
                         {"swiglu gate and up", kTokens, 1536, 8192},
                         {"swiglu down", kTokens, 4096, 1536},
                         {"attention qkv", kTokens, 1536, 4608},
                         {"attention out", kTokens, 1536, 1536},
                         {"head", 4192, 1536, 32000}}) {
    const bool head = s.outputs == 32000;
    const Matrix x = random_matrix(stream, DType::bf16, s.rows, s.inputs),
                 w = random_matrix(stream, DType::bf16, s.outputs, s.inputs, 0.02),
                 dy = random_matrix(stream, DType::bf16, s.rows, s.outputs);
    const Matrix y(stream, head ? DType::f32 : DType::bf16, s.rows, s.outputs),
        dx(stream, DType::bf16, s.rows, s.inputs), dw(stream, DType::f32, s.outputs, s.inputs);
    clear(stream, dw);
    const auto add = [&](const char* part, const std::function<void()>& work) {
      bench::add(rows,
                 {.job = text_of("product ", s.name, ", ", s.inputs, " to ", s.outputs, ", ", part),
                  .seconds = median_seconds(stream, work),
                  .flops = 2.0 * static_cast<double>(s.rows * s.inputs * s.outputs)});
    };
    add("forward", [&] { run(stream, op::Linear{.y = y, .x = x, .w = w}); });
    add("by inputs", [&] { run(stream, op::LinearBackward{.dx = dx, .dy = dy, .w = w}); });
    add("by weights", [&] { run(stream, op::LinearBackward{.dw = dw, .dy = dy, .x = x}); });
  }
  return rows;
}

}  // namespace samba::bench
