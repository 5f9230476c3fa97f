#include "kernels/causal_conv1d.h"

#include <algorithm>

#include "kernels/cpu/channels.h"
#include "kernels/cpu/parallel.h"

namespace samba {
namespace {

// A tile of channels and a chunk of tokens pass through a buffer in the first cache. The rows that
// the first taps reach back to stand in front of the chunk's, wherever they come from.
constexpr Index kTile = 64;
constexpr Index kChunk = 32;
constexpr Index kGrainElements = 16384;  // below this a second thread costs more than it gives

/// A row of a tile; channels beyond the last one of the matrix hold zeros.
template <class R>
using Row = R[kTile];

constexpr Index tiles_of(Index channels) {
  return (channels + kTile - 1) / kTile;
}

/// What a thread keeps of one tile and one chunk.
template <class R>
struct Scratch {
  Row<R>* w;  ///< [taps]
  Row<R>* x;  ///< [taps - 1 + kChunk]
  Row<R>* g;  ///< [kChunk + taps - 1] backward: gradient before SiLU, later rows behind the chunk's
  Row<R>* dw;  ///< [taps + 1] backward: the last row is the bias's

  static Index size(Index taps) { return (4 * taps + 2 * kChunk) * kTile; }
  Scratch(R* memory, Index taps) {
    w = reinterpret_cast<Row<R>*>(memory);
    x = w + taps, g = x + taps - 1 + kChunk, dw = g + kChunk + taps - 1;
  }
};

template <class R>
void load_taps(ConstView w, Index e0, Row<R>* to) {
  if (w.cols == 4 && w.stride == 4 && e0 + kTile <= w.rows) {
    // The usual number, in a form that the compiler turns into a few shuffles.
    const R* from = w.row<R>(e0);
    for (Index i = 0; i < kTile; ++i)
      for (Index j = 0; j < 4; ++j) to[j][i] = from[4 * i + j];
    return;
  }
  for (Index j = 0; j < w.cols; ++j)
    for (Index i = 0; i < kTile; ++i) to[j][i] = e0 + i < w.rows ? w.row<R>(e0 + i)[j] : 0;
}

/// Reads `count` rows of a tile of x, widened.
template <class T>
void load_rows(ConstView x, Index first, Index count, Index e0, Row<Exact<T>>* to) {
  using L = Lanes<Exact<T>>;
  for (Index i = 0; i < kTile; i += L::kCount) {
    const auto column = column_of<T>(x, first, e0 + i);
    for (Index t = 0; t < count; ++t) column.load(t).store(to[t] + i);
  }
}

template <class R>
Lanes<R> load_bias(ConstView bias, Index e) {
  return bias.empty() ? Lanes<R>::all(0) : load_parameter<R>(bias, e);
}

/// Calls f(t, bias + sum over the taps) for the lanes from channel i on of each of `length` rows;
/// rows[0] is what the first tap sees for the first of them.
template <class R, class F>
[[gnu::always_inline]] inline void convolve(const Row<R>* w, Index taps, const Row<R>* rows,
                                            Index i, Lanes<R> bias, Index length, F&& f) {
  using L = Lanes<R>;
  if (taps == 4) {
    // The usual number: the weights stay in registers.
    const L w0 = L::load(w[0] + i), w1 = L::load(w[1] + i), w2 = L::load(w[2] + i);
    const L w3 = L::load(w[3] + i);
    L x0 = L::load(rows[0] + i), x1 = L::load(rows[1] + i), x2 = L::load(rows[2] + i);
    for (Index t = 0; t < length; ++t) {
      const L x3 = L::load(rows[t + 3] + i);
      f(t, w3 * x3 + (w2 * x2 + (w1 * x1 + (w0 * x0 + bias))));
      x0 = x1, x1 = x2, x2 = x3;
    }
    return;
  }
  for (Index t = 0; t < length; ++t) {
    L sum = bias;
    for (Index j = 0; j < taps; ++j) sum = L::load(w[j] + i) * L::load(rows[t + j] + i) + sum;
    f(t, sum);
  }
}

/// Spans first .. last - 1 of the tile from channel e0 on.
template <class T>
void convolve_tile(const op::CausalConv1d& op, Index first, Index last, Index e0,
                   const Scratch<Exact<T>>& s) {
  using R = Exact<T>;
  using L = Lanes<R>;
  const Index taps = op.w.cols, channels = op.y.cols, count = std::min(kTile, channels - e0);
  load_taps(op.w, e0, s.w);
  for (Index k = first; k < last; ++k) {
    const Span& span = op.batch.spans[k];
    const bool stateful = !op.state.empty() && span.slot >= 0;
    std::fill_n(s.x[0], (taps - 1) * kTile, R{0});
    if (stateful && span.continues())
      for (Index j = 0; j < taps - 1; ++j)
        std::copy_n(op.state.row<R>(span.slot) + j * channels + e0, count, s.x[j]);
    for (Index start = 0; start < span.length; start += kChunk) {
      const Index row = span.first + start, length = std::min(kChunk, span.length - start);
      load_rows<T>(op.x, row, length, e0, s.x + taps - 1);
      for (Index i = 0; i < kTile; i += L::kCount) {
        const auto y = column_to<T>(op.y, row, e0 + i);
        convolve(s.w, taps, s.x, i, load_bias<R>(op.bias, e0 + i), length,
                 [&](Index t, L sum) { y.store(t, sum * sigmoid(sum)); });
      }
      std::copy_n(s.x[length], (taps - 1) * kTile, s.x[0]);
    }
    if (stateful)
      for (Index j = 0; j < taps - 1; ++j)
        std::copy_n(s.x[j], count, op.state.row<R>(span.slot) + j * channels + e0);
  }
}

/// Gradient before SiLU of a chunk, and its share of dw and dbias.
template <class T>
void gradient_of_sums(const op::CausalConv1dBackward& op, Index row, Index length, Index e0,
                      const Scratch<Exact<T>>& s) {
  using R = Exact<T>;
  using L = Lanes<R>;
  const Index taps = op.w.cols;
  for (Index i = 0; i < kTile; i += L::kCount) {
    const auto dy = column_of<T>(op.dy, row, e0 + i);
    const L one = L::all(1);
    L dbias = L::load(s.dw[taps] + i);
    convolve(s.w, taps, s.x, i, load_bias<R>(op.bias, e0 + i), length, [&](Index t, L sum) {
      const L gate = sigmoid(sum), g = dy.load(t) * (gate * (one + sum * (one - gate)));
      g.store(s.g[t] + i);
      dbias = dbias + g;
    });
    dbias.store(s.dw[taps] + i);
    for (Index j = 0; j < taps; ++j) {
      L dw = L::all(0);
      for (Index t = 0; t < length; ++t) dw = L::load(s.g[t] + i) * L::load(s.x[t + j] + i) + dw;
      (L::load(s.dw[j] + i) + dw).store(s.dw[j] + i);
    }
  }
}

template <class T>
void backward_span(const op::CausalConv1dBackward& op, const Span& span, Index e0,
                   const Scratch<Exact<T>>& s) {
  using R = Exact<T>;
  using L = Lanes<R>;
  const Index taps = op.w.cols;
  // From the last chunk to the first: dx needs the gradients of taps - 1 later rows.
  std::fill_n(s.g[0], (taps - 1) * kTile, R{0});
  for (Index start = (span.length - 1) / kChunk * kChunk; start >= 0; start -= kChunk) {
    const Index row = span.first + start, length = std::min(kChunk, span.length - start);
    const Index reach = std::min(taps - 1, start);
    std::fill_n(s.x[0], (taps - 1 - reach) * kTile, R{0});
    load_rows<T>(op.x, row - reach, reach + length, e0, s.x + taps - 1 - reach);
    std::copy_backward(s.g[0], s.g[taps - 1], s.g[length + taps - 1]);
    gradient_of_sums<T>(op, row, length, e0, s);
    for (Index i = 0; i < kTile; i += L::kCount) {
      const auto dx = column_to<T>(op.dx, row, e0 + i);
      for (Index t = 0; t < length; ++t) {
        L sum = L::all(0);
        for (Index j = 0; j < taps; ++j)
          sum = L::load(s.w[j] + i) * L::load(s.g[t + taps - 1 - j] + i) + sum;
        dx.store(t, sum);
      }
    }
  }
}

template <class T>
void backward_tile(const op::CausalConv1dBackward& op, Index e0, const Scratch<Exact<T>>& s) {
  using R = Exact<T>;
  const Index taps = op.w.cols, count = std::min(kTile, op.dy.cols - e0);
  load_taps(op.w, e0, s.w);
  std::fill_n(s.dw[0], (taps + 1) * kTile, R{0});
  for (Index k = 0; k < op.batch.count; ++k) backward_span<T>(op, op.batch.spans[k], e0, s);
  for (Index i = 0; i < count; ++i) {
    for (Index j = 0; j < taps; ++j) op.dw.row<R>(e0 + i)[j] += s.dw[j][i];
    if (!op.dbias.empty()) op.dbias.row<R>(0)[e0 + i] += s.dw[taps][i];
  }
}

}  // namespace

template <Tier>
void run_on(CpuStream& stream, const op::CausalConv1d& op) {
  const Index taps = op.w.cols, tiles = tiles_of(op.y.cols), spans = op.batch.count;
  if (spans == 0) return;
  // Tasks are tiles, by groups where there is little to do, and by ranges of spans where there are
  // fewer tiles than keep the threads evenly busy.
  const Index group = std::clamp<Index>(kGrainElements / (op.batch.tokens * kTile), 1, tiles);
  const Index groups = (tiles + group - 1) / group;
  const Index parts = std::clamp<Index>(4 * stream.threads() / groups, 1, spans);
  visit_float(op.dtype(), [&]<class T>() {
    using R = Exact<T>;
    const Matrix memory(stream, dtype_of<R>(), stream.threads(), Scratch<R>::size(taps));
    parallel_tasks(stream, groups * parts, [&](Index task) {
      const Scratch<R> scratch(memory.row<R>(omp_get_thread_num()), taps);
      const Index part = task % parts, first_tile = task / parts * group;
      for (Index tile = first_tile; tile < std::min(first_tile + group, tiles); ++tile)
        convolve_tile<T>(op, spans * part / parts, spans * (part + 1) / parts, tile * kTile,
                         scratch);
    });
  });
}

template <Tier>
void run_on(CpuStream& stream, const op::CausalConv1dBackward& op) {
  const Index taps = op.w.cols;
  visit_float(op.dtype(), [&]<class T>() {
    using R = Exact<T>;
    const Matrix memory(stream, dtype_of<R>(), stream.threads(), Scratch<R>::size(taps));
    parallel_tasks(stream, tiles_of(op.dy.cols), [&](Index tile) {
      backward_tile<T>(op, tile * kTile, Scratch<R>(memory.row<R>(omp_get_thread_num()), taps));
    });
  });
}

template void run_on<kTier>(CpuStream&, const op::CausalConv1d&);
template void run_on<kTier>(CpuStream&, const op::CausalConv1dBackward&);

}  // namespace samba
