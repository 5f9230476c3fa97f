#include "kernels/linear.h"

#include "kernels/cpu/gemm.h"
#include "kernels/rms_norm.h"
#include "kernels/swiglu.h"

namespace samba {
namespace {

template <class T>
Operand<T> operand(ConstView v, bool sums_along_rows) {
  return {reinterpret_cast<const T*>(v.data), v.stride, sums_along_rows};
}

/// Writes panels first .. last - 1 of w.
template <class T>
void pack_weight(const op::PackLinear& op, Index first, Index last) {
  constexpr Index kWidth = samba::kWidth<T>;
  const Index outputs = op.w.rows, inputs = op.w.cols, size = panel_size<T>(inputs);
  for (Index p = first; p < last; ++p) {
    auto* panel = reinterpret_cast<Packed<T>*>(op.panels.data) + p * size;
    const Index row = std::min(p * kWidth, outputs);
    const Index count = std::min(outputs - row, kWidth);
    const Operand<T> w = operand<T>(op.w, true);
    if constexpr (std::is_same_v<Packed<T>, Exact<T>>) {
      pack_panel(panel, kWidth, w.from(row, 0), count, inputs);
      for (Index i = units_of<T>(inputs) * kWidth; i < size; ++i) panel[i] = 0;
    } else {
      for (Index k = 0; k < size / kWidth; ++k)
        for (Index i = 0; i < kWidth; ++i)
          panel[k * kWidth + packed_place<T>(i)] =
              i < count && k < inputs ? op.w.row<T>(row + i)[k] : T();
    }
  }
}

/// Adds the rows of dy to dbias, one after the other; threads share the columns.
template <class T>
void add_rows(CpuStream& stream, ConstView dy, View dbias) {
  const Index grain = std::max<Index>(16, kGrain / 8 / std::max<Index>(dy.rows, 1));
  parallel_ranges(stream, dy.cols, grain, [&](Index first, Index last) {
    Exact<T>* sums = dbias.row<Exact<T>>(0);
    for (Index n = 0; n < dy.rows; ++n) {
      const T* row = dy.row<T>(n);
#pragma omp simd
      for (Index i = first; i < last; ++i) sums[i] += get(row[i]);
    }
  });
}

View gates_of(View product) {
  return product.columns(0, product.cols / 2);
}
View ups_of(View product) {
  return product.columns(product.cols / 2, product.cols / 2);
}

}  // namespace

template <Tier>
void run_on(CpuStream& stream, const op::PackLinear& op) {
  visit_float(op.dtype(), [&]<class T>() {
    const Index panels = op.panels.rows * op::PackLinear::kPanel / kWidth<T>;
    parallel_ranges(stream, panels, 1,
                    [&](Index first, Index last) { pack_weight<T>(op, first, last); });
  });
}

template <Tier tier>
void run_on(CpuStream& stream, const op::Linear& op) {
  ConstView x = op.x;
  View y = op.y;
  Matrix normed, halves;
  if (!op.norm.empty()) {
    normed = Matrix(stream, op.dtype(), x.rows, x.cols);
    run_on<tier>(stream, op::RmsNorm{.y = normed, .x = x, .w = op.norm, .eps = op.eps});
    x = normed;
  }
  if (op.gated) {
    y = op.product;
    if (y.empty()) y = halves = Matrix(stream, op.dtype(), x.rows, op.outputs());
  }
  visit_float(op.dtype(), [&]<class T>() {
    Product<T> product{
        .y = y, .a = operand<T>(x, true), .bias = op.bias, .depth = x.cols, .add = op.add};
    if (op.packed)
      product.panels = reinterpret_cast<const Packed<T>*>(op.w.data);
    else
      product.b = operand<T>(op.w, true);
    Gemm<T>(product).run(stream);
  });
  if (op.gated) run_on<tier>(stream, op::SwiGlu{.y = op.y, .gate = gates_of(y), .up = ups_of(y)});
  if (!op.rope.x.empty()) run_on<tier>(stream, op.rope);
  if (!op.conv.x.empty()) run_on<tier>(stream, op.conv);
}

template <Tier tier>
void run_on(CpuStream& stream, const op::LinearBackward& op) {
  if (!op.product.empty()) {
    const View gate = gates_of(op.product), up = ups_of(op.product);
    run_on<tier>(stream, op::LinearBackward{.dx = op.again, .dy = op.dy, .w = op.w});
    run_on<tier>(
        stream,
        op::SwiGluBackward{
            .dgate = gate, .dup = up, .y = op.again, .dy = op.again, .gate = gate, .up = up});
  }
  visit_float(op.dtype(), [&]<class T>() {
    if (!op.dx.empty())
      Gemm<T>({.y = op.dx,
               .a = operand<T>(op.dy, true),
               .b = operand<T>(op.w, false),
               .depth = op.dy.cols,
               .add = op.add_dx})
          .run(stream);
    if (!op.dw.empty())
      Gemm<T>({.y = op.dw,
               .a = operand<T>(op.dy, false),
               .b = operand<T>(op.x, false),
               .depth = op.dy.rows,
               .add = op.add_dw})
          .run(stream);
    if (!op.dbias.empty()) add_rows<T>(stream, op.dy, op.dbias);
  });
}

template void run_on<kTier>(CpuStream&, const op::PackLinear&);
template void run_on<kTier>(CpuStream&, const op::Linear&);
template void run_on<kTier>(CpuStream&, const op::LinearBackward&);

}  // namespace samba
