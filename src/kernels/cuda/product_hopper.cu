#include "kernels/cuda/product_hopper.cuh"

namespace samba::product {
namespace {

/// Narrower results leave most of a tile of 128 x 256 empty.
constexpr Index kNarrow = 128;

template <class... Views>
bool can_map(const Views&... views) {
  return (hopper::can_map(views) && ...);
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
  const ConstView gate = op.w.block(0, width), up = op.w.block(width, width);
  const bool keep = !op.product.empty();
  if (!stream.hopper() || op.y.rows <= kNarrow || width < kNarrow / 2) return false;
  if (!op.bias.empty()) return false;
  if (!can_map(op.x, gate, up, op.y)) return false;
  Job job{};
  map_factors<Form::forward>(job, op.x, gate, up);
  if (keep) {
    const View gates = op.product.columns(0, width), ups = op.product.columns(width, width);
    if (!can_map(gates, ups)) return false;
    job.c[0] = hopper::tensor_map(gates, 64, kOwnRows);
    job.c[1] = hopper::tensor_map(ups, 64, kOwnRows);
  }
  job.c[2] = hopper::tensor_map(op.y, 64, kOwnRows);
  job.keep = keep;
  job.tiles = tiles_of<Finish::gated>(stream, op.y.rows, width, op.x.cols);
  run_job<Form::forward, Finish::gated>(stream, job);
  return true;
}

bool multiply_gated_backward(CudaStream& stream, const op::LinearBackward& op) {
  const Index width = op.w.cols;
  const View gates = op.product.columns(0, width), ups = op.product.columns(width, width);
  if (!stream.hopper() || op.dy.rows <= kNarrow || width <= kNarrow) return false;
  if (!can_map(op.dy, op.w, gates, ups, op.again)) return false;
  Job job{};
  map_factors<Form::inputs>(job, op.dy, op.w, op.w);
  job.c[0] = hopper::tensor_map(gates, 64, kOwnRows);
  job.c[1] = hopper::tensor_map(ups, 64, kOwnRows);
  job.c[2] = hopper::tensor_map(op.again, 64, kOwnRows);
  job.columns = static_cast<int>(width);
  job.tiles = tiles_of<Finish::gated_backward>(stream, op.dy.rows, width, op.dy.cols);
  run_job<Form::inputs, Finish::gated_backward>(stream, job);
  return true;
}

}  // namespace samba::product
