#include "kernels/selective_scan.h"

#include "kernels/cpu/selective_scan_tile.h"

namespace samba {
namespace {

constexpr Index kStatesInRegisters = 16;
constexpr Index kGrainStates = 32768;  // below this a second thread costs more than it gives

/// What a thread keeps of one tile and one chunk.
template <class R>
struct Scratch {
  Row<R>* a;      ///< [S] log2(e) A
  Row<R>* h;      ///< [S] the state
  Row<R>* delta;  ///< [kChunk]
  Row<R>* input;  ///< [kChunk] delta u
  Row<R>* y;      ///< [kChunk] h c
  R* b;           ///< [kChunk, S]
  R* c;           ///< [kChunk, S]

  static Index size(Index states) {
    return (2 * states + 3 * kChunk) * kTile + 2 * kChunk * states;
  }
  Scratch(R* memory, Index states) {
    auto* rows = reinterpret_cast<Row<R>*>(memory);
    a = rows, h = a + states, delta = h + states, input = delta + kChunk, y = input + kChunk;
    b = reinterpret_cast<R*>(y + kChunk), c = b + kChunk * states;
  }
};

/// delta = softplus(dt + dt_bias), input = delta u.
template <class T>
void prepare(const op::SelectiveScan& op, Index first, Index length, Index e0,
             const Scratch<Exact<T>>& s) {
  using L = Lanes<Exact<T>>;
  for (Index i = 0; i < kTile; i += L::kCount) {
    const L bias = load_parameter<Exact<T>>(op.dt_bias, e0 + i);
    const auto dt = column_of<T>(op.dt, first, e0 + i), u = column_of<T>(op.u, first, e0 + i);
    for (Index t = 0; t < length; ++t) {
      const L delta = softplus(dt.load(t) + bias);
      delta.store(s.delta[t] + i);
      (delta * u.load(t)).store(s.input[t] + i);
    }
  }
}

/// Moves states n0 .. n0 + kStates - 1 of the lanes from channel i on through the chunk and adds
/// what they give to y, which the first states begin. Calls ahead(i, t) at each token t.
template <Index kStates, class R, class F>
void recur(const Scratch<R>& s, Index states, Index n0, Index i, Index length, F&& ahead) {
  using L = Lanes<R>;
  const R* a = s.a[n0] + i;
  const R* b = s.b + n0;
  const R* c = s.c + n0;
  L h[kStates];
  for (Index n = 0; n < kStates; ++n) h[n] = L::load(s.h[n0 + n] + i);
  for (Index t = 0; t < length; ++t, b += states, c += states) {
    ahead(i, t);
    const L delta = L::load(s.delta[t] + i), input = L::load(s.input[t] + i);
    // Two sums: one alone would be a chain of additions as long as the rest of the step.
    L even = n0 == 0 ? L::all(0) : L::load(s.y[t] + i), odd = L::all(0);
#pragma GCC unroll 16
    for (Index n = 0; n < kStates; ++n) {
      h[n] = exp2(delta * L::load(a + n * kTile)) * h[n] + input * L::all(b[n]);
      L& y = n % 2 == 0 ? even : odd;
      y = h[n] * L::all(c[n]) + y;
    }
    (even + odd).store(s.y[t] + i);
  }
  for (Index n = 0; n < kStates; ++n) h[n].store(s.h[n0 + n] + i);
}

/// Asks for the rows of the next chunk, a few bytes at each token of this one: they lie too far
/// apart for the machine to foresee.
template <class T>
struct Ahead {
  const T* rows[4];
  Index strides[4];

  Ahead(const op::SelectiveScan& op, Index first, Index e0) {
    const ConstView views[] = {op.dt, op.u, op.z.empty() ? op.u : op.z, op.y};
    const bool exists = first + kChunk <= op.y.rows;
    for (int k = 0; k < 4; ++k) {
      rows[k] = views[k].row<T>(exists ? first : 0) + e0;
      strides[k] = exists ? views[k].stride : 0;
    }
  }
  [[gnu::always_inline]] void operator()(Index i, Index t) const {
    for (int k = 0; k < 4; ++k) __builtin_prefetch(rows[k] + t * strides[k] + i);
  }
};

template <class R, class F>
void recur(const Scratch<R>& s, Index states, Index length, F&& ahead) {
  for (Index i = 0; i < kTile; i += Lanes<R>::kCount) {
    Index n = 0;
    for (; n + kStatesInRegisters <= states; n += kStatesInRegisters)
      recur<kStatesInRegisters>(s, states, n, i, length, ahead);
    for (; n < states; ++n) recur<1>(s, states, n, i, length, [](Index, Index) {});
  }
}

/// y = (h c + d u) silu(z)
template <class T>
void finish(const op::SelectiveScan& op, Index first, Index length, Index e0,
            const Scratch<Exact<T>>& s) {
  using L = Lanes<Exact<T>>;
  const bool gated = !op.z.empty();
  for (Index i = 0; i < kTile; i += L::kCount) {
    const L d = load_parameter<Exact<T>>(op.d, e0 + i);
    const auto y = column_to<T>(op.y, first, e0 + i);
    const auto u = column_of<T>(op.u, first, e0 + i);
    const auto gate = column_of<T>(gated ? op.z : op.u, first, e0 + i);
    for (Index t = 0; t < length; ++t) {
      const L ungated = L::load(s.y[t] + i) + d * u.load(t), z = gate.load(t);
      y.store(t, gated ? ungated * (z * sigmoid(z)) : ungated);
    }
  }
}

/// Spans first .. last - 1 of the tile from channel e0 on.
template <class T>
void scan_tile(const op::SelectiveScan& op, Index first, Index last, Index e0,
               const Scratch<Exact<T>>& s) {
  using R = Exact<T>;
  const Index channels = op.y.cols, states = op.a_log.cols;
  const auto state_of = [&](const Span& span) { return op.state.row<R>(span.slot); };
  load_decay<R>(op.a_log, e0, s.a);
  Index chunk = op::SelectiveScan::chunks(Batch{.spans = op.batch.spans, .count = first});
  for (Index i = first; i < last; ++i) {
    const Span& span = op.batch.spans[i];
    const bool stateful = !op.state.empty() && span.slot >= 0;
    if (stateful && span.continues())
      load_state(state_of(span), channels, states, e0, s.h);
    else
      std::fill_n(s.h[0], states * kTile, R{0});
    for (Index start = 0; start < span.length; start += kChunk, ++chunk) {
      if (!op.h.empty()) store_state(op.h.row<R>(chunk), channels, states, e0, s.h);
      const Index row = span.first + start, length = std::min(kChunk, span.length - start);
      load_rows<T>(op.b, row, length, s.b);
      load_rows<T>(op.c, row, length, s.c);
      prepare<T>(op, row, length, e0, s);
      recur(s, states, length, Ahead<T>(op, row + kChunk, e0));
      finish<T>(op, row, length, e0, s);
    }
    if (stateful) store_state(state_of(span), channels, states, e0, s.h);
  }
}

}  // namespace

template <Tier>
void run_on(CpuStream& stream, const op::SelectiveScan& op) {
  const Index states = op.a_log.cols, tiles = tiles_of(op.y.cols), spans = op.batch.count;
  if (spans == 0) return;
  // Tasks are tiles, by groups where there is little to do, and by ranges of spans where there are
  // fewer tiles than keep the threads evenly busy.
  const Index group = std::clamp<Index>(
      kGrainStates / std::max<Index>(1, op.batch.tokens * states * kTile), 1, tiles);
  const Index groups = (tiles + group - 1) / group;
  const Index parts = std::clamp<Index>(4 * stream.threads() / groups, 1, spans);
  visit_float(op.dtype(), [&]<class T>() {
    using R = Exact<T>;
    const Matrix memory(stream, dtype_of<R>(), stream.threads(), Scratch<R>::size(states));
    parallel_tasks(stream, groups * parts, [&](Index task) {
      const Scratch<R> scratch(memory.row<R>(omp_get_thread_num()), states);
      const Index part = task % parts, first_tile = task / parts * group;
      for (Index tile = first_tile; tile < std::min(first_tile + group, tiles); ++tile)
        scan_tile<T>(op, spans * part / parts, spans * (part + 1) / parts, tile * kTile, scratch);
    });
  });
}

template void run_on<kTier>(CpuStream&, const op::SelectiveScan&);

}  // namespace samba
