#include "kernels/cuda/product_hopper.cuh"

namespace samba::product {
namespace {

/// Narrower results leave most of a tile of 128 x 256 empty.
constexpr Index kNarrow = 128;

template <class... Views>
bool can_map(const Views&... views) {
  return (hopper::can_map(views) && ...);
}

bool can_map_halves(ConstView product) {
  const Index width = product.cols / 2;
  return can_map(product.columns(0, width), product.columns(width, width));
}

}  // namespace

bool multiply(CudaStream& stream, const MatrixProduct& p) {
  if (!stream.hopper() || !can_map(p.a, p.b) || !hopper::can_map(p.c, p.c.dtype)) return false;
  if (p.c.rows <= kNarrow || p.c.cols <= kNarrow) return false;
  if (p.b_transposed && !p.a_transposed)
    multiply_forward(stream, p);
  else if (!p.b_transposed && !p.a_transposed)
    multiply_inputs(stream, p);
  else if (!p.b_transposed && p.c.dtype == DType::f32)
    multiply_weights(stream, p);
  else
    return false;
  return true;
}

bool multiply_gated(CudaStream& stream, const op::Linear& op) {
  const Index width = op.y.cols;
  if (!stream.hopper() || op.y.rows <= kNarrow || width < kNarrow / 2) return false;
  if (!op.bias.empty()) return false;
  if (!can_map(op.x, op.w.block(0, width), op.w.block(width, width), op.y)) return false;
  if (!op.product.empty() && !can_map_halves(op.product)) return false;
  Job job = gated_job(stream, op);
  run_job<Form::forward, Finish::gated>(stream, job);
  return true;
}

bool multiply_gated_backward(CudaStream& stream, const op::LinearBackward& op) {
  if (!stream.hopper() || op.dy.rows <= kNarrow || op.w.cols <= kNarrow) return false;
  if (!can_map(op.dy, op.w, op.again) || !can_map_halves(op.product)) return false;
  Job job = gated_backward_job(stream, op);
  run_job<Form::inputs, Finish::gated_backward>(stream, job);
  return true;
}

}  // namespace samba::product
