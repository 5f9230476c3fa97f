#include "kernels/cross_entropy.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/math.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/tier.h"

namespace samba {
namespace {

/// Exponentials that are summed before the row's sum takes them.
constexpr Index kBlock = 256;

/// One row: its loss, and its gradient as T unless dlogits is left out.
template <class T>
void entropy_row(const op::CrossEntropy& op, Index n) {
  using E = Exact<T>;
  const Index width = op.logits.cols;
  const E* x = op.logits.row<E>(n);
  const Index target = *op.targets.row<std::int32_t>(n);
  E* loss = op.loss.row<E>(n);
  T* dx = op.dlogits.empty() ? nullptr : op.dlogits.row<T>(n);
  if (target < 0) {
    *loss = 0;
    for (Index v = 0; dx != nullptr && v < width; ++v) put(dx[v], 0);
    return;
  }
  // A row stays in the second-level cache, so three plain walks over it cost less than one that
  // rescales its sum whenever a greater logit turns up.
  E top = x[0];
#pragma omp simd reduction(max : top)
  for (Index v = 0; v < width; ++v) top = x[v] > top ? x[v] : top;
  // A few terms hold most of a sharp row's sum, and an f32 sum of everything would round each of
  // the small ones after them away: they are added in blocks.
  double sum = 0;
  for (Index begin = 0; begin < width; begin += kBlock) {
    const Index end = std::min(width, begin + kBlock);
    E part = 0;
#pragma omp simd reduction(+ : part)
    for (Index v = begin; v < end; ++v) part += fast_exp(x[v] - top);
    sum += static_cast<double>(part);
  }
  const E below = x[target] - top;
  *loss = static_cast<E>(std::log(sum) - static_cast<double>(below));
  if (dx == nullptr) return;
  const E scale = static_cast<E>(op.scale), share = static_cast<E>(op.scale / sum);
#pragma omp simd
  for (Index v = 0; v < width; ++v) put(dx[v], fast_exp(x[v] - top) * share);
  put(dx[target], fast_exp(below) * share - scale);
}

}  // namespace

template <Tier>
void run_on(CpuStream& stream, const op::CrossEntropy& op) {
  op.check_targets();
  const DType dtype = op.dlogits.empty() ? op.logits.dtype : op.dlogits.dtype;
  visit_float(dtype, [&]<class T>() {
    parallel_rows(stream, op.logits.rows, op.logits.cols, [&](Index first, Index last) {
      for (Index n = first; n < last; ++n) entropy_row<T>(op, n);
    });
  });
}

template void run_on<kTier>(CpuStream&, const op::CrossEntropy&);

}  // namespace samba
