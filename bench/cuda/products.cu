#include <functional>

#include "core/cuda_blas.h"
#include "core/error.h"
#include "kernels/cuda/product_hopper.cuh"
#include "kernels/run.h"
#include "kernels/swiglu.h"
#include "rows.h"

namespace samba::bench {
namespace {

using product::Finish;
using product::Form;

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

/// One product by the library and, where we take it, by our kernel.
void add_both(std::vector<Row>& rows, Stream& stream, const Shape& shape, const char* part,
              const MatrixProduct& p) {
  CudaStream& cuda = *stream.cuda();
  add_product(rows, stream, shape.text(part) + ", library", shape.flops(), [&] {
    if (!cuda.blas().run(cuda, p)) fail("cuBLASLt does not take ", shape.text(part));
  });
  if (product::multiply(cuda, p))
    add_product(rows, stream, shape.text(part) + ", ours", shape.flops(),
                [&] { product::multiply(cuda, p); });
}

void add_shape(std::vector<Row>& rows, Stream& stream, const Shape& s, bool training) {
  const bool head = s.outputs == 32000;
  const Matrix x = random_matrix(stream, DType::bf16, s.rows, s.inputs),
               w = random_matrix(stream, DType::bf16, s.outputs, s.inputs, 0.02);
  const Matrix y(stream, head ? DType::f32 : DType::bf16, s.rows, s.outputs);
  add_both(rows, stream, s, "forward", {.c = y, .a = x, .b = w, .b_transposed = true});
  if (!training) return;
  const Matrix dy = random_matrix(stream, DType::bf16, s.rows, s.outputs);
  const Matrix dx(stream, DType::bf16, s.rows, s.inputs),
      dw(stream, DType::f32, s.outputs, s.inputs);
  clear(stream, dw);
  add_both(rows, stream, s, "by inputs", {.c = dx, .a = dy, .b = w});
  add_both(rows, stream, s, "by weights",
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
  if (product::multiply_gated(cuda, forward))
    add_product(rows, stream, s.text("gated, ours"), s.flops(),
                [&] { product::multiply_gated(cuda, forward); });
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
  if (!product::multiply_gated_backward(cuda, backward)) return;
  const double seconds = median_seconds(stream, [&] {
    restore();
    product::multiply_gated_backward(cuda, backward);
  });
  bench::add(rows, {.job = "product " + down.text("gated backward, ours"),
                    .seconds = seconds - copying,
                    .flops = down.flops()});
}

// ---- variants ----------------------------------------------------------------------------------

template <Form form, Finish finish, int cluster, int stages, int pending, int lag>
void add_variant(std::vector<Row>& rows, Stream& stream, const Shape& shape, const char* part,
                 const MatrixProduct& p, int high = product::kHigh, bool cut = true) {
  product::Job job = product::job_of<form, finish, cluster>(*stream.cuda(), p);
  job.tiles.high = high;
  if (!cut) {
    job.tiles.whole = job.tiles.rows * job.tiles.cols;
    job.tiles.parts = 1;
  }
  add_product(rows, stream,
              text_of(shape.text(part), ": cluster ", cluster, ", stages ", stages, ", pending ",
                      pending, ", lag ", lag, ", high ", high, cut ? "" : ", not cut"),
              shape.flops(), [&] {
                product::run_job<form, finish, cluster, stages, pending, lag>(*stream.cuda(), job);
              });
}

template <Form form, Finish finish>
void add_variants(std::vector<Row>& rows, Stream& stream, const Shape& s, const char* part,
                  const MatrixProduct& p) {
  add_variant<form, finish, 2, 4, 1, 1>(rows, stream, s, part, p);
  add_variant<form, finish, 2, 4, 1, 1>(rows, stream, s, part, p, 4);
  add_variant<form, finish, 2, 4, 1, 1>(rows, stream, s, part, p, 16);
  add_variant<form, finish, 2, 4, 1, 1>(rows, stream, s, part, p, product::kHigh, false);
  add_variant<form, finish, 2, 4, 1, 0>(rows, stream, s, part, p);
  add_variant<form, finish, 2, 4, 0, 1>(rows, stream, s, part, p);
  add_variant<form, finish, 2, 4, 0, 2>(rows, stream, s, part, p);
  add_variant<form, finish, 2, 3, 1, 0>(rows, stream, s, part, p);
  add_variant<form, finish, 1, 4, 1, 1>(rows, stream, s, part, p);
}

template <Form form, Finish finish, int lag>
void add_gated_variant(std::vector<Row>& rows, Stream& stream, const Shape& shape,
                       product::Job job) {
  constexpr int kStages = product::kUsualStages<finish>;
  add_product(rows, stream, shape.text(text_of("lag ", lag).c_str()), shape.flops(), [&] {
    product::run_job<form, finish, product::kCluster, kStages, product::kPending, lag>(
        *stream.cuda(), job);
  });
}

void add_gated_variants(std::vector<Row>& rows, Stream& stream) {
  constexpr Index kTokens = 32768, kInputs = 1536, kWidth = 4096;
  const CudaStream& cuda = *stream.cuda();
  const Matrix x = random_matrix(stream, DType::bf16, kTokens, kInputs),
               w = random_matrix(stream, DType::bf16, 2 * kWidth, kInputs, 0.02);
  const Matrix product(stream, DType::bf16, kTokens, 2 * kWidth),
      y(stream, DType::bf16, kTokens, kWidth);
  const product::Job forward =
      product::gated_job(cuda, {.y = y, .x = x, .w = w, .gated = true, .product = product});
  const Shape up{"gated", kTokens, kInputs, 2 * kWidth};
  add_gated_variant<Form::forward, Finish::gated, 0>(rows, stream, up, forward);
  add_gated_variant<Form::forward, Finish::gated, 1>(rows, stream, up, forward);
  add_gated_variant<Form::forward, Finish::gated, 2>(rows, stream, up, forward);
  const Matrix v = random_matrix(stream, DType::bf16, kInputs, kWidth, 0.02);
  const product::Job backward =
      product::gated_backward_job(cuda, {.dy = x, .w = v, .product = product, .again = y});
  const Shape down{"gated backward", kTokens, kWidth, kInputs};
  add_gated_variant<Form::inputs, Finish::gated_backward, 0>(rows, stream, down, backward);
  add_gated_variant<Form::inputs, Finish::gated_backward, 1>(rows, stream, down, backward);
}

}  // namespace

/// The products of a training step of Samba_421M over 8 x 4096 tokens, and of some others: forward,
/// and backward by inputs and by weights, each by the library and by our own kernels.
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

/// Ways to lay out our kernel: what the constants of product.cuh and product_hopper.cuh were chosen
/// from.
std::vector<Row> variant_rows(Stream& stream) {
  std::vector<Row> rows;
  if (!stream.cuda()->hopper()) return rows;
  const Shape s{"mamba out", 32768, 3072, 1536};
  const Matrix x = random_matrix(stream, DType::bf16, s.rows, s.inputs),
               w = random_matrix(stream, DType::bf16, s.outputs, s.inputs, 0.02),
               dy = random_matrix(stream, DType::bf16, s.rows, s.outputs);
  const Matrix y(stream, DType::bf16, s.rows, s.outputs), dx(stream, DType::bf16, s.rows, s.inputs),
      dw(stream, DType::f32, s.outputs, s.inputs);
  clear(stream, dw);
  add_variants<Form::forward, Finish::rounded>(rows, stream, s, "forward",
                                               {.c = y, .a = x, .b = w, .b_transposed = true});
  add_variants<Form::inputs, Finish::rounded>(rows, stream, s, "by inputs",
                                              {.c = dx, .a = dy, .b = w});
  add_variants<Form::weights, Finish::exact>(
      rows, stream, s, "by weights", {.c = dw, .a = dy, .b = x, .a_transposed = true, .add = true});
  add_gated_variants(rows, stream);
  return rows;
}

}  // namespace samba::bench
