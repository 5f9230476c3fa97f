#include "kernels/selective_scan.h"

#include "kernels/cpu/selective_scan_tile.h"

namespace samba {
namespace {

// Memory is read in long pieces of few rows, since the rows of a batch lie far apart: a tile is as
// wide, and a block of tokens as short, as keeps what lies between the rows in the first cache.
constexpr Index kWidest = 256;  // channels of a tile
constexpr Index kBlock = 8;     // tokens
static_assert(op::SelectiveScan::kShortest % kBlock == 0);
constexpr Index kStatesInRegisters = 16;
constexpr Index kStepChannels = 1024;  // of a task that moves one sequence by one token
constexpr Index kGrainStates = 4096;   // of a task: handing one out costs as much as some hundred

/// A row of a tile.
template <class R>
using Row = R[kWidest];

/// What a thread keeps of one tile and one block.
template <class R>
struct Scratch {
  Row<R>* a;      ///< [S] log2(e) A
  Row<R>* h;      ///< [S] the state
  Row<R>* delta;  ///< [kBlock]
  Row<R>* input;  ///< [kBlock] delta u
  Row<R>* skip;   ///< [kBlock] d u; with what the states give, where they are not done at once
  Row<R>* gate;   ///< [kBlock] silu(z), or 1
  R* b;           ///< [kBlock, S]
  R* c;           ///< [kBlock, S]

  static Index size(Index states) {
    return (2 * states + 4 * kBlock) * kWidest + 2 * kBlock * states;
  }
  Scratch(R* memory, Index states) {
    auto* rows = reinterpret_cast<Row<R>*>(memory);
    a = rows, h = a + states, delta = h + states, input = delta + kBlock, skip = input + kBlock;
    gate = skip + kBlock;
    b = reinterpret_cast<R*>(gate + kBlock), c = b + kBlock * states;
  }
};

/// Reads `length` tokens from row `first` on: delta = softplus(dt + dt_bias), input = delta u,
/// skip = d u, gate = silu(z).
template <class T>
void prepare(const op::SelectiveScan& op, Index first, Index length, Tile tile,
             const Scratch<Exact<T>>& s) {
  using L = Lanes<Exact<T>>;
  const bool gated = !op.z.empty();
  for (Index i = 0; i < tile.count; i += L::kCount) {
    const Index e = tile.e + i;
    const L bias = load_parameter<Exact<T>>(op.dt_bias, e);
    const L d = load_parameter<Exact<T>>(op.d, e);
    const auto dts = column_of<T>(op.dt, first, e), us = column_of<T>(op.u, first, e);
    const auto zs = column_of<T>(gated ? op.z : op.u, first, e);
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

/// Asks for the rows of the next block, a few bytes at each token of this one: they lie too far
/// apart for the machine to foresee. They go to the second cache: where their distance is a power
/// of two, the first holds eight of them. (No lambda: GCC drops calls of what only prefetches.)
template <class T>
struct Ahead {
  const T* rows[4];
  Index strides[4];

  Ahead(const op::SelectiveScan& op, Index first, Index e) {
    const ConstView views[] = {op.dt, op.u, op.z.empty() ? op.u : op.z, op.y};
    const bool exists = first + kBlock <= op.y.rows;
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
      const L kept = exp2(delta * L::load(a + n * kWidest)) * h[n];
      h[n] = L::multiply_add(input, L::all(b[n]), kept);
      L& y = n % 2 == 0 ? even : odd;
      y = L::multiply_add(h[n], L::all(c[n]), y);
    }
    done(t, even + odd);
  }
  for (Index n = 0; n < kStates; ++n) h[n].store(s.h[n0 + n] + i);
}

/// y = (h c + skip) gate
template <class T>
void recur(const op::SelectiveScan& op, Index first, Index length, Tile tile,
           const Scratch<Exact<T>>& s) {
  using L = Lanes<Exact<T>>;
  const Index states = op.b.cols;
  for (Index i = 0; i < tile.count; i += L::kCount) {
    const Index e = tile.e + i;
    const auto y = column_to<T>(op.y, first, e);
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
          s, states, n, i, length, Ahead<T>(op, first + kBlock, e),
          [&](Index t, L sum) { y.store(t, sum * L::load(s.gate[t] + i), whole); });
    });
  }
}

/// Spans first .. last - 1 of a tile.
template <class T>
void scan_tile(const op::SelectiveScan& op, Index first, Index last, Tile tile,
               const Scratch<Exact<T>>& s) {
  using R = Exact<T>;
  const Index channels = op.y.cols, states = op.b.cols;
  const auto state_of = [&](const Span& span) { return op.state.row<R>(span.slot); };
  if (op.decay.empty())
    load_decay<R>(op.a_log, tile, s.a);
  else
    load_state(op.decay.row<R>(0), channels, states, tile, s.a);
  for (Index i = first; i < last; ++i) {
    const Span& span = op.batch.spans[i];
    const bool stateful = !op.state.empty() && span.slot >= 0;
    if (stateful && span.continues())
      load_state(state_of(span), channels, states, tile, s.h);
    else
      std::fill_n(s.h[0], states * kWidest, R{0});
    Index chunk = op::SelectiveScan::chunk_row(span, i, op.chunk);
    for (Index start = 0; start < span.length; start += kBlock) {
      if (!op.h.empty() && start % op.chunk == 0)
        store_state(op.h.row<R>(chunk++), channels, states, tile, s.h);
      const Index row = span.first + start, length = std::min(kBlock, span.length - start);
      load_rows<T>(op.b, row, length, s.b);
      load_rows<T>(op.c, row, length, s.c);
      prepare<T>(op, row, length, tile, s);
      recur<T>(op, row, length, tile, s);
    }
    if (stateful) store_state(state_of(span), channels, states, tile, s.h);
  }
}

/// even += odd, odd = 0
template <class R>
void join(R* even, R* odd, Index count) {
  using L = Lanes<R>;
  for (Index i = 0; i < count; i += L::kCount) {
    (L::load(even + i) + L::load(odd + i)).store(even + i);
    L::all(0).store(odd + i);
  }
}

/// One token of a sequence for channels e0 .. e0 + count - 1: decays and states are read, and
/// states written, row by row as they lie. `scratch` holds 4 * kStepChannels numbers.
template <class T>
void step(const op::SelectiveScan& op, const Span& span, Index e0, Index count, Exact<T>* scratch) {
  using R = Exact<T>;
  using L = Lanes<R>;
  const Index channels = op.y.cols, states = op.b.cols;
  R *delta = scratch, *input = delta + kStepChannels, *even = input + kStepChannels;
  R* odd = even + kStepChannels;
  R* state = op.state.row<R>(span.slot) + e0;
  const R* decay = op.decay.row<R>(0) + e0;
  for (Index i = 0; i < count; i += L::kCount) {
    const L u = column_of<T>(op.u, span.first, e0 + i).load(0);
    const L dt = column_of<T>(op.dt, span.first, e0 + i).load(0);
    const L step = softplus(dt + load_parameter<R>(op.dt_bias, e0 + i));
    step.store(delta + i);
    (step * u).store(input + i);
    (load_parameter<R>(op.d, e0 + i) * u).store(even + i);
    L::all(0).store(odd + i);
  }
  // Sums grow in the order of recur: state by state, then two by two in groups.
  const Index singles = states % kStatesInRegisters;
  for (Index n = 0; n < states; ++n, state += channels, decay += channels) {
    const L b = L::all(get(op.b.row<T>(span.first)[n]));
    const L c = L::all(get(op.c.row<T>(span.first)[n]));
    const Index place = n < singles ? 0 : (n - singles) % kStatesInRegisters;
    if (place == 0) join(even, odd, count);
    R* sums = place % 2 == 0 ? even : odd;
    for (Index i = 0; i < count; i += L::kCount) {
      __builtin_prefetch(decay + 3 * channels + i);
      __builtin_prefetch(state + 3 * channels + i, 1);
      const L a = load_left(decay + i, count - i);
      const L before = span.continues() ? load_left(state + i, count - i) : L::all(0);
      const L kept = exp2(L::load(delta + i) * a) * before;
      const L h = L::multiply_add(L::load(input + i), b, kept);
      store_left(state + i, count - i, h);
      L::multiply_add(h, c, L::load(sums + i)).store(sums + i);
    }
  }
  join(even, odd, count);
  for (Index i = 0; i < count; i += L::kCount) {
    const L y = L::load(even + i);
    const auto to = column_to<T>(op.y, span.first, e0 + i);
    if (op.z.empty()) {
      to.store(0, y * L::all(1));
    } else {
      const L z = column_of<T>(op.z, span.first, e0 + i).load(0);
      to.store(0, y * (z * sigmoid(z)));
    }
  }
}

/// Whether every span is one token of a sequence whose state is kept, as in decoding.
bool decodes(const op::SelectiveScan& op) {
  if (op.decay.empty() || op.state.empty() || !op.h.empty()) return false;
  for (Index i = 0; i < op.batch.count; ++i)
    if (op.batch.spans[i].length != 1 || op.batch.spans[i].slot < 0) return false;
  return true;
}

template <class T>
void run_steps(CpuStream& stream, const op::SelectiveScan& op) {
  const Index channels = op.y.cols, spans = op.batch.count;
  const Index parts = (channels + kStepChannels - 1) / kStepChannels;
  const Matrix memory(stream, dtype_of<Exact<T>>(), stream.threads(), 4 * kStepChannels);
  parallel_tasks(stream, parts * spans, [&](Index task) {
    const Index e0 = task % parts * kStepChannels;
    step<T>(op, op.batch.spans[task / parts], e0, std::min(kStepChannels, channels - e0),
            memory.row<Exact<T>>(omp_get_thread_num()));
  });
}

}  // namespace

template <Tier>
void run_on(CpuStream& stream, const op::PackDecay& op) {
  visit_float(op.dtype(), [&]<class T>() {
    if constexpr (std::is_same_v<T, Exact<T>>) {
      const Index channels = op.a_log.rows, states = op.a_log.cols;
      const Matrix memory(stream, op.dtype(), states, kWidest);
      auto* rows = reinterpret_cast<Row<T>*>(memory.row<T>(0));
      for (Index e = 0; e < channels; e += kWidest) {
        const Tile tile{e, std::min(kWidest, channels - e)};
        load_decay(op.a_log, tile, rows);
        store_state(op.decay.row<T>(0), channels, states, tile, rows);
      }
    }
  });
}

template <Tier>
void run_on(CpuStream& stream, const op::SelectiveScan& op) {
  const Index channels = op.y.cols, states = op.b.cols, spans = op.batch.count;
  if (spans == 0 || channels == 0) return;
  if (!op.dt_from.w.empty()) run_on<kTier>(stream, op.dt_from);
  if (decodes(op)) return visit_float(op.dtype(), [&]<class T>() { run_steps<T>(stream, op); });
  // Tasks are tiles of about the same width, as many as threads or a multiple. Where there is
  // little to do, they are fewer; and where channels are too few to keep the threads evenly busy,
  // ranges of spans.
  const Index threads = stream.threads();
  const Index most = (channels + kLine - 1) / kLine;
  const Index least =
      std::max<Index>(1, kGrainStates / std::max<Index>(1, op.batch.tokens * states));
  const Index wanted = (channels + kWidest - 1) / kWidest;
  const Index tiles = std::clamp<Index>((wanted + threads - 1) / threads * threads, 1, most);
  Index width = std::max((channels + tiles - 1) / tiles, least);
  width = std::min(kWidest, (width + kLine - 1) / kLine * kLine);
  const Index tasks = (channels + width - 1) / width;
  const Index parts = std::clamp<Index>(4 * threads / tasks, 1, spans);
  visit_float(op.dtype(), [&]<class T>() {
    using R = Exact<T>;
    const Matrix memory(stream, dtype_of<R>(), threads, Scratch<R>::size(states));
    parallel_tasks(stream, tasks * parts, [&](Index task) {
      const Scratch<R> scratch(memory.row<R>(omp_get_thread_num()), states);
      const Index part = task % parts, e = task / parts * width;
      scan_tile<T>(op, spans * part / parts, spans * (part + 1) / parts,
                   {e, std::min(width, channels - e)}, scratch);
    });
  });
}

template void run_on<kTier>(CpuStream&, const op::PackDecay&);
template void run_on<kTier>(CpuStream&, const op::SelectiveScan&);

}  // namespace samba
