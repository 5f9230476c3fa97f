#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/spans.cuh"
#include "kernels/cuda/vector.cuh"
#include "kernels/delay.h"

namespace samba {
namespace {

constexpr int kThreads = 256;

/// n neighbouring elements, which are copied as they are.
template <class T, int n>
struct alignas(n * sizeof(T)) Unit {
  T values[n];
};

/// A thread takes n columns of one row. One of the first `by` rows of a span also keeps the last
/// row that has its place in the ring: it alone reads and writes there.
template <class T, int n>
__global__ void delay(const op::Delay op) {
  using U = Unit<T, n>;
  const Index cols = op.y.cols, i = (Index{blockIdx.x} * kThreads + threadIdx.x) * n;
  const Index row = i / cols, col = i % cols;
  if (row >= op.y.rows) return;
  const Span span = op.batch.spans[span_of(op.batch, row)];
  const auto x = [&](Index r) { return *reinterpret_cast<const U*>(op.x.row<T>(r) + col); };
  U* y = reinterpret_cast<U*>(op.y.row<T>(row) + col);
  const Index t = row - span.first, position = span.position + t;
  if (t >= op.by) {
    *y = x(row - op.by);
    return;
  }
  if (op.state.empty() || span.slot < 0) {
    *y = U{};
    return;
  }
  U* kept = reinterpret_cast<U*>(op.state.row<T>(span.slot) + position % op.by * cols + col);
  *y = position >= op.by ? *kept : U{};
  *kept = x(row + (span.length - 1 - t) / op.by * op.by);
}

}  // namespace

void run_on(CudaStream& stream, const op::Delay& call) {
  op::Delay op = call;
  if (op.batch.count == 0) return;
  op.batch.spans =
      stream.resident(std::span(op.batch.spans, static_cast<std::size_t>(op.batch.count)));
  visit_float(op.dtype(), [&]<class T>() {
    const auto blocks = [&](int n) {
      return static_cast<unsigned>(ceil_div(op.y.rows * op.y.cols, Index{kThreads} * n));
    };
    constexpr int n = 16 / sizeof(T);
    if (aligned(n, op.y, op.x, op.state))
      launch(stream, delay<T, n>, blocks(n), kThreads, 0, op);
    else
      launch(stream, delay<T, 1>, blocks(1), kThreads, 0, op);
  });
}

}  // namespace samba
