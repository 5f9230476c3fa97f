#pragma once

#include <omp.h>

#include <algorithm>

#include "core/dtype.h"
#include "core/stream.h"

namespace samba {
namespace {

/// Calls f(first, last) for disjoint ranges that cover [0, count), at most one range per thread and
/// none (but the only one) shorter than `grain`. Which range a thread gets depends on nothing but
/// count, grain and the number of threads, so sums per range repeat bit for bit. f must not throw.
template <class F>
void parallel_ranges(const CpuStream& stream, Index count, Index grain, F&& f) {
  const Index parts = std::clamp<Index>(count / std::max<Index>(grain, 1), 1, stream.threads());
  if (parts == 1) {
    if (count > 0) f(Index{0}, count);
    return;
  }
#pragma omp parallel num_threads(static_cast<int>(parts))
  {
    const Index part = omp_get_thread_num();
    f(count * part / parts, count * (part + 1) / parts);
  }
}

/// parallel_ranges over the rows of a matrix of `cols` columns, for work that is a few operations
/// an element: below 16384 elements a second thread costs more than it gives.
template <class F>
void parallel_rows(const CpuStream& stream, Index rows, Index cols, F&& f) {
  constexpr Index kGrainElements = 16384;
  parallel_ranges(stream, rows, kGrainElements / std::max<Index>(cols, 1), f);
}

/// Calls f(i) for every i in [0, count); a thread takes the next i when it is done with one. For
/// tasks of uneven size. f must not throw.
template <class F>
void parallel_tasks(const CpuStream& stream, Index count, F&& f) {
  const int threads = static_cast<int>(std::min<Index>(count, stream.threads()));
  if (threads <= 1) {
    for (Index i = 0; i < count; ++i) f(i);
    return;
  }
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (Index i = 0; i < count; ++i) f(i);
}

}  // namespace
}  // namespace samba
