#include "kernels/delay.h"

#include <algorithm>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/tier.h"

namespace samba {
namespace {

template <class T>
void delay_span(const op::Delay& op, const Span& span) {
  const Index cols = op.y.cols;
  T* ring = op.state.empty() || span.slot < 0 ? nullptr : op.state.row<T>(span.slot);
  const auto row = [&](Index place) { return op.x.row<T>(span.first + place); };
  for (Index t = 0; t < span.length; ++t) {
    T* y = op.y.row<T>(span.first + t);
    const Index position = span.position + t - op.by;
    if (t >= op.by)
      std::copy_n(row(t - op.by), cols, y);
    else if (position >= 0 && ring != nullptr)
      std::copy_n(ring + position % op.by * cols, cols, y);
    else
      std::fill_n(y, cols, T{});
  }
  if (ring == nullptr) return;
  for (Index t = std::max<Index>(0, span.length - op.by); t < span.length; ++t)
    std::copy_n(row(t), cols, ring + (span.position + t) % op.by * cols);
}

}  // namespace

template <Tier>
void run_on(CpuStream& stream, const op::Delay& op) {
  visit_float(op.dtype(), [&]<class T>() {
    parallel_tasks(stream, op.batch.count, [&](Index i) { delay_span<T>(op, op.batch.spans[i]); });
  });
}

template void run_on<kTier>(CpuStream&, const op::Delay&);

}  // namespace samba
