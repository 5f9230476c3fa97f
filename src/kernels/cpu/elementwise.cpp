#include "kernels/elementwise.h"

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/tier.h"

namespace samba {
namespace {

template <class To, class From>
void convert_row(To* to, const From* from, Index count, bool add) {
  using Sum = decltype(Exact<To>{} + Exact<From>{});
  if (add) {
#pragma omp simd
    for (Index i = 0; i < count; ++i)
      put(to[i], static_cast<Exact<To>>(Sum{get(to[i])} + Sum{get(from[i])}));
  } else {
#pragma omp simd
    for (Index i = 0; i < count; ++i) put(to[i], static_cast<Exact<To>>(get(from[i])));
  }
}

template <class V>
V flattened(V v) {
  return {v.data, 1, v.rows * v.cols, v.rows * v.cols, v.dtype};
}

}  // namespace

template <Tier>
void run_on(CpuStream& stream, const op::Convert& op) {
  // Without gaps between rows the matrix is one row, which threads share by elements: a block of
  // parameters is [1, P].
  View to = op.to;
  ConstView from = op.from;
  if (to.rows == 1 || (to.stride == to.cols && from.stride == from.cols)) {
    to = flattened(to);
    from = flattened(from);
  }
  constexpr Index kBlock = 4096;
  const Index across = (to.cols + kBlock - 1) / kBlock;
  visit_float(op.to.dtype, [&]<class To>() {
    visit_float(op.from.dtype, [&]<class From>() {
      parallel_rows(stream, to.rows * across, std::min(to.cols, kBlock), [&](Index a, Index b) {
        for (Index block = a; block < b; ++block) {
          const Index row = block / across, first = block % across * kBlock;
          convert_row(to.row<To>(row) + first, from.row<From>(row) + first,
                      std::min(to.cols - first, kBlock), op.add);
        }
      });
    });
  });
}

template void run_on<kTier>(CpuStream&, const op::Convert&);

}  // namespace samba
