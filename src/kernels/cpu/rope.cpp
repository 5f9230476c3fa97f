#include "kernels/rope.h"

#include <algorithm>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/tier.h"
#include "kernels/rope_turns.h"

namespace samba {
namespace {

constexpr Index kGrainElements = 16384;  // below this a second thread costs more than it gives

/// Writes cosine and sine of the angles of one position. `turns` is room for as many doubles.
template <class E>
void fill_rotation(const Turn* frequencies, Index half, Index position, bool inverse, double* turns,
                   E* cosines, E* sines) {
  constexpr double kQuadrant = 0x1p62;
  for (Index i = 0; i < half; ++i) {
    const auto top = static_cast<std::uint64_t>(static_cast<Turn>(position) * frequencies[i] >> 64);
    const std::uint64_t quadrant = (top + (std::uint64_t{1} << 61)) >> 62;
    const auto rest = static_cast<std::int64_t>(top - (quadrant << 62));
    // Both in one number: the rest is at most half a quadrant.
    turns[i] = static_cast<double>(rest) / kQuadrant;
    cosines[i] = static_cast<E>(quadrant % 4);
  }
  const double sign = inverse ? -1 : 1;
#pragma omp simd
  for (Index i = 0; i < half; ++i) {
    constexpr double kHalfPi = 1.57079632679489661923;
    const double x = turns[i] * kHalfPi, z = x * x;
    // Taylor's series on [-pi / 4, pi / 4], to below half a unit in the last place.
    double s = -1 / 1307674368000.0;
    s = s * z + 1 / 6227020800.0;
    s = s * z - 1 / 39916800.0;
    s = s * z + 1 / 362880.0;
    s = s * z - 1 / 5040.0;
    s = s * z + 1 / 120.0;
    s = s * z - 1 / 6.0;
    s = s * z * x + x;
    double c = 1 / 20922789888000.0;
    c = c * z - 1 / 87178291200.0;
    c = c * z + 1 / 479001600.0;
    c = c * z - 1 / 3628800.0;
    c = c * z + 1 / 40320.0;
    c = c * z - 1 / 720.0;
    c = c * z + 1 / 24.0;
    c = c * z - 0.5;
    c = c * z + 1;
    const E quadrant = cosines[i];
    const bool swapped = quadrant == 1 || quadrant == 3;
    const double cosine = swapped ? s : c, sine = swapped ? c : s;
    cosines[i] = static_cast<E>(quadrant == 1 || quadrant == 2 ? -cosine : cosine);
    sines[i] = static_cast<E>(sign * (quadrant == 2 || quadrant == 3 ? -sine : sine));
  }
}

template <class T>
void rotate(T* x, Index heads, Index half, const Exact<T>* cosines, const Exact<T>* sines) {
  for (Index h = 0; h < heads; ++h, x += 2 * half) {
#pragma omp simd
    for (Index i = 0; i < half; ++i) {
      const Exact<T> a = get(x[i]), b = get(x[i + half]);
      put(x[i], a * cosines[i] - b * sines[i]);
      put(x[i + half], a * sines[i] + b * cosines[i]);
    }
  }
}

template <class T>
void rotate_rows(const op::Rope& op, const Turn* frequencies, double* memory, Index first,
                 Index last) {
  const Index half = op.x.cols / op.heads / 2;
  auto* cosines = reinterpret_cast<Exact<T>*>(memory + half);
  auto* sines = reinterpret_cast<Exact<T>*>(memory + 2 * half);
  for (Index s = 0; s < op.batch.count; ++s) {
    const Span& span = op.batch.spans[s];
    const Index end = std::min(last, span.first + span.length);
    for (Index row = std::max(first, span.first); row < end; ++row) {
      const Index position = (span.position + row - span.first) / op.group + op.shift;
      fill_rotation(frequencies, half, position, op.inverse, memory, cosines, sines);
      rotate(op.x.row<T>(row), op.heads, half, cosines, sines);
    }
  }
}

}  // namespace

template <Tier>
void run_on(CpuStream& stream, const op::Rope& op) {
  const Index half = op.x.cols / op.heads / 2;
  const Matrix frequencies(stream, DType::f64, 1, 2 * half);
  const Matrix memory(stream, DType::f64, stream.threads(), 3 * half);
  auto* turns = reinterpret_cast<Turn*>(frequencies.row<double>(0));
  fill_frequencies(op.base, half, turns);
  visit_float(op.dtype(), [&]<class T>() {
    const Index grain = std::max<Index>(1, kGrainElements / op.x.cols);
    parallel_ranges(stream, op.x.rows, grain, [&](Index first, Index last) {
      rotate_rows<T>(op, turns, memory.row<double>(omp_get_thread_num()), first, last);
    });
  });
}

template void run_on<kTier>(CpuStream&, const op::Rope&);

}  // namespace samba
