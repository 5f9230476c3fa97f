#include <functional>

#include "core/cuda_blas.h"
#include "core/error.h"
#include "kernels/cuda/gated_product.cuh"
#include "kernels/run.h"
#include "kernels/swiglu.h"
#include "rows.h"

namespace samba::bench {
namespace {

void add_product(std::vector<Row>& rows, Stream& stream, const std::string& job, double flops,
                 const std::function<void()>& work) {
  bench::add(rows,
             {.job = "product " + job, .seconds = median_seconds(stream, work), .flops = flops});
}

struct Shape {
  const char* name;
  Index rows, inputs, outputs;

  double flops() const { return 2.0 * static_cast<double>(rows * inputs * outputs); }
  std::string text(const char* part) const {
    return text_of(name, ", ", inputs, " to ", outputs, ", ", part);
  }
};

/// One product as op::Linear has it made.
void add_library(std::vector<Row>& rows, Stream& stream, const Shape& shape, const char* part,
                 const MatrixProduct& p) {
  CudaStream& cuda = *stream.cuda();
  add_product(rows, stream, shape.text(part), shape.flops(), [&] {
    if (!cuda.blas().run(cuda, p)) fail("cuBLASLt does not take ", shape.text(part));
  });
}

void add_shape(std::vector<Row>& rows, Stream& stream, const Shape& s, bool training) {
  const bool head = s.outputs == 32000;
  const Matrix x = random_matrix(stream, DType::bf16, s.rows, s.inputs),
               w = random_matrix(stream, DType::bf16, s.outputs, s.inputs, 0.02);
  const Matrix y(stream, head ? DType::f32 : DType::bf16, s.rows, s.outputs);
  add_library(rows, stream, s, "forward", {.c = y, .a = x, .b = w, .b_transposed = true});
  if (!training) return;
  const Matrix dy = random_matrix(stream, DType::bf16, s.rows, s.outputs);
  const Matrix dx(stream, DType::bf16, s.rows, s.inputs),
      dw(stream, DType::f32, s.outputs, s.inputs);
  clear(stream, dw);
  add_library(rows, stream, s, "by inputs", {.c = dx, .a = dy, .b = w});
  add_library(rows, stream, s, "by weights",
              {.c = dw, .a = dy, .b = x, .a_transposed = true, .add = true});
}

/// The gated products of op::SwiGlu, `outputs` wide: the library and the op behind it, and ours.
void add_gated(std::vector<Row>& rows, Stream& stream, Shape s, bool training) {
  CudaStream& cuda = *stream.cuda();
  const Index width = s.outputs;
  const Matrix x = random_matrix(stream, DType::bf16, s.rows, s.inputs),
               w = random_matrix(stream, DType::bf16, 2 * width, s.inputs, 0.02);
  const Matrix both(stream, DType::bf16, s.rows, 2 * width), y(stream, DType::bf16, s.rows, width);
  const View gate = both.view().columns(0, width), up = both.view().columns(width, width);
  s.outputs = 2 * width;
  add_product(rows, stream, s.text("gated, library"), s.flops(), [&] {
    cuda.blas().run(cuda, {.c = both, .a = x, .b = w, .b_transposed = true});
    run(stream, op::SwiGlu{.y = y, .gate = gate, .up = up});
  });
  const op::Linear forward{
      .y = y, .x = x, .w = w, .gated = true, .product = training ? both.view() : View{}};
  if (gated_product::multiply(cuda, forward))
    add_product(rows, stream, s.text("gated, ours"), s.flops(),
                [&] { gated_product::multiply(cuda, forward); });
  if (!training) return;
  // The projection behind it, [width] to [inputs].
  const Shape down{s.name, s.rows, width, s.inputs};
  const Matrix dy = random_matrix(stream, DType::bf16, s.rows, s.inputs),
               v = random_matrix(stream, DType::bf16, s.inputs, width, 0.02);
  const Matrix product = random_matrix(stream, DType::bf16, s.rows, 2 * width);
  const View dgate = product.view().columns(0, width), dup = product.view().columns(width, width);
  add_product(rows, stream, down.text("gated backward, library"), down.flops(), [&] {
    cuda.blas().run(cuda, {.c = y, .a = dy, .b = v});
    run(stream,
        op::SwiGluBackward{.dgate = dgate, .dup = dup, .y = y, .dy = y, .gate = gate, .up = up});
  });
  // The gradients come over what was read, which soon grows or dies away: from a copy each time.
  const op::LinearBackward backward{.dy = dy, .w = v, .product = both, .again = y};
  const auto restore = [&] { copy(stream, both, product); };
  const double copying = median_seconds(stream, restore);
  restore();
  if (!gated_product::multiply(cuda, backward)) return;
  const double seconds = median_seconds(stream, [&] {
    restore();
    gated_product::multiply(cuda, backward);
  });
  bench::add(rows, {.job = "product " + down.text("gated backward, ours"),
                    .seconds = seconds - copying,
                    .flops = down.flops()});
}

}  // namespace

/// The products of a training step of Samba_421M over 8 x 4096 tokens, and of some others: forward,
/// and backward by inputs and by weights. The gated ones by the library and by our own kernel.
std::vector<Row> product_rows(Stream& stream) {
  constexpr Index kTokens = 32768;
  std::vector<Row> rows;
  for (const Shape& s : {Shape{"mamba in", kTokens, 1536, 6144},
                         {"mamba x", kTokens, 3072, 128},
                         {"mamba dt", kTokens, 96, 3072},
                         {"mamba out", kTokens, 3072, 1536},
                         {"swiglu gate and up", kTokens, 1536, 8192},
                         {"swiglu down", kTokens, 4096, 1536},
                         {"attention qkv", kTokens, 1536, 4608},
                         {"attention out", kTokens, 1536, 1536},
                         {"head", 4192, 1536, 32000},
                         {"1.3B swiglu down", kTokens / 2, 6144, 2304}})
    add_shape(rows, stream, s, true);
  for (const Shape& s : {Shape{"prefill mamba in", 4096, 2048, 8192},
                         {"prefill swiglu down", 4096, 8192, 2048},
                         {"prefill attention out", 4096, 2048, 2048}})
    add_shape(rows, stream, s, false);
  add_gated(rows, stream, {"swiglu", kTokens, 1536, 4096}, true);
  add_gated(rows, stream, {"1.3B swiglu", kTokens / 2, 2304, 6144}, true);
  add_gated(rows, stream, {"prefill swiglu", 4096, 2048, 8192}, false);
  return rows;
}

}  // namespace samba::bench
