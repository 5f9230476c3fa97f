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
  Row<R>* skip;   ///< [kChunk] d u; with what the states give, where they are not done at once
  Row<R>* gate;   ///< [kChunk] silu(z), or 1
  R* b;           ///< [kChunk, S]
  R* c;           ///< [kChunk, S]

  static Index size(Index states) {
    return (2 * states + 4 * kChunk) * kTile + 2 * kChunk * states;
  }
  Scratch(R* memory, Index states) {
    auto* rows = reinterpret_cast<Row<R>*>(memory);
    a = rows, h = a + states, delta = h + states, input = delta + kChunk, skip = input + kChunk;
    gate = skip + kChunk;
    b = reinterpret_cast<R*>(gate + kChunk), c = b + kChunk * states;
  }
};

/// Reads `length` tokens from row `first` on: delta = softplus(dt + dt_bias), input = delta u,
/// skip = d u, gate = silu(z).
template <class T>
void prepare(const op::SelectiveScan& op, Index first, Index length, Index e0,
             const Scratch<Exact<T>>& s) {
  using L = Lanes<Exact<T>>;
  const bool gated = !op.z.empty();
  for (Index i = 0; i < kTile; i += L::kCount) {
    const L bias = load_parameter<Exact<T>>(op.dt_bias, e0 + i);
    const L d = load_parameter<Exact<T>>(op.d, e0 + i);
    const auto dts = column_of<T>(op.dt, first, e0 + i), us = column_of<T>(op.u, first, e0 + i);
    const auto zs = column_of<T>(gated ? op.z : op.u, first, e0 + i);
    for_whole_or_left(us, [&](auto whole) {
      for (Index t = 0; t < length; ++t) {
        const L delta = softplus(dts.load(t, whole) + bias), u = us.load(t, whole);
        delta.store(s.delta[t] + i);
        (delta * u).store(s.input[t] + i);
        (d * u).store(s.skip[t] + i);
        const L z = zs.load(t, whole);
        (gated ? z * sigmoid(z) : L::all(1)).store(s.gate[t] + i);
      }
    });
  }
}

/// Asks for the rows of the next chunk, a few bytes at each token of this one: they lie too far
/// apart for the machine to foresee. They go to the second cache: where their distance is a power
/// of two, the first holds eight of them. (No lambda: GCC drops calls of what only prefetches.)
template <class T>
struct Ahead {
  const T* rows[4];
  Index strides[4];

  Ahead(const op::SelectiveScan& op, Index first, Index e) {
    const ConstView views[] = {op.dt, op.u, op.z.empty() ? op.u : op.z, op.y};
    const bool exists = first + kChunk <= op.y.rows;
    for (int k = 0; k < 4; ++k) {
      rows[k] = views[k].row<T>(exists ? first : 0) + e;
      strides[k] = exists ? views[k].stride : 0;
    }
  }
  [[gnu::always_inline]] void operator()(Index t) const {
    for (int k = 0; k < 4; ++k) __builtin_prefetch(rows[k] + t * strides[k], 0, 2);
  }
};

/// Moves states n0 .. n0 + kStates - 1 of the lanes from channel i on through the tokens, adds
/// what they give to skip and hands the sum to done(t, sum). Calls ahead(t) at each token t.
template <Index kStates, class R, class Ahead, class Done>
[[gnu::always_inline]] inline void recur(const Scratch<R>& s, Index states, Index n0, Index i,
                                         Index length, Ahead&& ahead, Done&& done) {
  using L = Lanes<R>;
  const R* a = s.a[n0] + i;
  const R* b = s.b + n0;
  const R* c = s.c + n0;
  L h[kStates];
  for (Index n = 0; n < kStates; ++n) h[n] = L::load(s.h[n0 + n] + i);
  for (Index t = 0; t < length; ++t, b += states, c += states) {
    ahead(t);
    const L delta = L::load(s.delta[t] + i), input = L::load(s.input[t] + i);
    // Two sums: one alone would be a chain of additions as long as the rest of the step.
    L even = L::load(s.skip[t] + i), odd = L::all(0);
#pragma GCC unroll 16
    for (Index n = 0; n < kStates; ++n) {
      h[n] = exp2(delta * L::load(a + n * kTile)) * h[n] + input * L::all(b[n]);
      L& y = n % 2 == 0 ? even : odd;
      y = h[n] * L::all(c[n]) + y;
    }
    done(t, even + odd);
  }
  for (Index n = 0; n < kStates; ++n) h[n].store(s.h[n0 + n] + i);
}

/// y = (h c + skip) gate
template <class T>
void recur(const op::SelectiveScan& op, Index first, Index length, Index e0,
           const Scratch<Exact<T>>& s) {
  using L = Lanes<Exact<T>>;
  const Index states = op.a_log.cols;
  for (Index i = 0; i < kTile; i += L::kCount) {
    const auto y = column_to<T>(op.y, first, e0 + i);
    const auto wait = [&](Index t, L sum) { sum.store(s.skip[t] + i); };
    Index n = states % kStatesInRegisters;
    for (Index k = 0; k < n; ++k) recur<1>(s, states, k, i, length, [](Index) {}, wait);
    for (; n + kStatesInRegisters < states; n += kStatesInRegisters)
      recur<kStatesInRegisters>(s, states, n, i, length, [](Index) {}, wait);
    if (n == states) {
      for (Index t = 0; t < length; ++t)
        y.store(t, L::load(s.skip[t] + i) * L::load(s.gate[t] + i));
      continue;
    }
    for_whole_or_left(y, [&](auto whole) {
      recur<kStatesInRegisters>(
          s, states, n, i, length, Ahead<T>(op, first + kChunk, e0 + i),
          [&](Index t, L sum) { y.store(t, sum * L::load(s.gate[t] + i), whole); });
    });
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
      recur<T>(op, row, length, e0, s);
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
