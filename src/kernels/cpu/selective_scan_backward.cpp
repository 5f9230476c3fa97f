#include "kernels/cpu/selective_scan_tile.h"
#include "kernels/selective_scan.h"

namespace samba {
namespace {

constexpr Index kTile = kLine;  // channels

/// A row of a tile.
template <class R>
using Row = R[kTile];

constexpr Index tiles_of(Index channels) {
  return (channels + kTile - 1) / kTile;
}

Tile tile_of(Index tile, Index channels) {
  return {tile * kTile, std::min(kTile, channels - tile * kTile)};
}

// A step of the inner loops serves kBlocks registers of channels and kStates states of each, so
// that a running sum over channels is read and written once for kBlocks of them, one over states
// once for kStates.
constexpr Index kBlocks = 2;
constexpr Index kStates = 4;

/// What the threads share. Rows of states are [S * channels, rounded up to tiles], tile by tile.
struct Shared {
  Matrix a;         ///< log2(e) A
  Matrix carry;     ///< gradient of the state that the chunk leaves behind
  Matrix da;        ///< gradient of A
  Matrix channels;  ///< [2, tiles * kTile] gradients of dt_bias and d
  Matrix rows;      ///< [parts * N, 2 S] gradients of b and c from each part of the channels
};

/// What a thread keeps of one tile and one chunk.
template <class R>
struct Scratch {
  Row<R>* h;       ///< [S] the state before the chunk
  Row<R>* delta;   ///< [kChunk]
  Row<R>* input;   ///< [kChunk] delta u
  Row<R>* gate;    ///< [kChunk] sigmoid(z)
  Row<R>* dsum;    ///< [kChunk] gradient of h c + d u
  Row<R>* y;       ///< [kChunk] h c
  Row<R>* ddecay;  ///< [kChunk] sum over states of d(delta a) a, in units of log2(e) A
  Row<R>* dinput;  ///< [kChunk] gradient of delta u
  R* decays;       ///< [kChunk, kStates, kBlocks lanes] of the states at work
  R* after;        ///< [kChunk, kStates, kBlocks lanes] h after each token
  R* b;            ///< [kChunk, S]
  R* c;            ///< [kChunk, S]
  R* db;           ///< [kChunk, S, lanes] summed over the channels of each lane
  R* dc;           ///< [kChunk, S, lanes]

  static constexpr Index kStep = kStates * kBlocks * Lanes<R>::kCount;
  static Index size(Index states) {
    return (states + 7 * kChunk) * kTile + 2 * kChunk * (kStep + states * (1 + Lanes<R>::kCount));
  }
  Scratch(R* memory, Index states) {
    h = reinterpret_cast<Row<R>*>(memory);
    delta = h + states, input = delta + kChunk, gate = input + kChunk, dsum = gate + kChunk;
    y = dsum + kChunk, ddecay = y + kChunk, dinput = ddecay + kChunk;
    decays = reinterpret_cast<R*>(dinput + kChunk), after = decays + kChunk * kStep;
    db = after + kChunk * kStep, dc = db + kChunk * states * Lanes<R>::kCount;
    b = dc + kChunk * states * Lanes<R>::kCount, c = b + kChunk * states;
  }
};

/// What a thread works on: a chunk of tokens, and in it one tile after the other.
struct Chunk {
  Index first;
  Index length;
  Index row;  ///< of the saved states
};

template <class T>
void prepare(const op::SelectiveScanBackward& op, const Chunk& chunk, Index e0,
             const Scratch<Exact<T>>& s) {
  using L = Lanes<Exact<T>>;
  const bool gated = !op.z.empty();
  for (Index i = 0; i < kTile; i += L::kCount) {
    const L bias = load_parameter<Exact<T>>(op.dt_bias, e0 + i);
    const auto column = [&](ConstView x) { return column_of<T>(x, chunk.first, e0 + i); };
    const auto dt = column(op.dt), u = column(op.u), dy = column(op.dy);
    const auto zs = column(gated ? op.z : op.dy);
    for (Index t = 0; t < chunk.length; ++t) {
      const L delta = softplus(dt.load(t) + bias), z = zs.load(t), gate = sigmoid(z);
      delta.store(s.delta[t] + i);
      (delta * u.load(t)).store(s.input[t] + i);
      gate.store(s.gate[t] + i);
      (gated ? dy.load(t) * (z * gate) : z).store(s.dsum[t] + i);
    }
  }
}

/// Moves kCount states from n0 on, of the lanes from channel i on, through the chunk once more,
/// keeping decays and states.
template <Index kCount, class R>
void replay(const Scratch<R>& s, const Row<R>* a, Index states, Index n0, Index i, Index length) {
  using L = Lanes<R>;
  L h[kCount][kBlocks];
  for (Index n = 0; n < kCount; ++n)
    for (Index k = 0; k < kBlocks; ++k) h[n][k] = L::load(s.h[n0 + n] + i + k * L::kCount);
  for (Index t = 0; t < length; ++t) {
    const R* b = s.b + t * states + n0;
    const R* c = s.c + t * states + n0;
    R* decays = s.decays + t * Scratch<R>::kStep;
    R* after = s.after + t * Scratch<R>::kStep;
#pragma GCC unroll 2
    for (Index k = 0; k < kBlocks; ++k) {
      const Index lane = i + k * L::kCount;
      const L delta = L::load(s.delta[t] + lane), input = L::load(s.input[t] + lane);
      L y = n0 == 0 ? L::all(0) : L::load(s.y[t] + lane);
#pragma GCC unroll 4
      for (Index n = 0; n < kCount; ++n) {
        const L decay = exp2(delta * L::load(a[n0 + n] + lane));
        h[n][k] = decay * h[n][k] + input * L::all(b[n]);
        y = h[n][k] * L::all(c[n]) + y;
        decay.store(decays + (n * kBlocks + k) * L::kCount);
        h[n][k].store(after + (n * kBlocks + k) * L::kCount);
      }
      y.store(s.y[t] + lane);
    }
  }
}

/// Goes back through the chunk with the gradients of the same states.
template <Index kCount, class R>
void retrace(const Scratch<R>& s, const Row<R>* a, Row<R>* carry, Row<R>* da, Index states,
             Index n0, Index i, Index length) {
  using L = Lanes<R>;
  L dh[kCount][kBlocks], da_sum[kCount][kBlocks];
  for (Index n = 0; n < kCount; ++n)
    for (Index k = 0; k < kBlocks; ++k) {
      dh[n][k] = L::load(carry[n0 + n] + i + k * L::kCount);
      da_sum[n][k] = L::all(0);
    }
  for (Index t = length - 1; t >= 0; --t) {
    const R* b = s.b + t * states + n0;
    const R* c = s.c + t * states + n0;
    R* db = s.db + (t * states + n0) * L::kCount;
    R* dc = s.dc + (t * states + n0) * L::kCount;
    const R* decays = s.decays + t * Scratch<R>::kStep;
    const R* after = s.after + t * Scratch<R>::kStep;
    L ddecay[kBlocks], dinput[kBlocks];
    for (Index k = 0; k < kBlocks; ++k) {
      ddecay[k] = n0 == 0 ? L::all(0) : L::load(s.ddecay[t] + i + k * L::kCount);
      dinput[k] = n0 == 0 ? L::all(0) : L::load(s.dinput[t] + i + k * L::kCount);
    }
#pragma GCC unroll 4
    for (Index n = 0; n < kCount; ++n) {
      L db_n = L::load(db + n * L::kCount), dc_n = L::load(dc + n * L::kCount);
#pragma GCC unroll 2
      for (Index k = 0; k < kBlocks; ++k) {
        const Index lane = i + k * L::kCount, at = (n * kBlocks + k) * L::kCount;
        const L dsum = L::load(s.dsum[t] + lane);
        const L before =
            t > 0 ? L::load(after - Scratch<R>::kStep + at) : L::load(s.h[n0 + n] + lane);
        const L total = dsum * L::all(c[n]) + dh[n][k];
        dc_n = dsum * L::load(after + at) + dc_n;
        db_n = total * L::load(s.input[t] + lane) + db_n;
        dinput[k] = total * L::all(b[n]) + dinput[k];
        dh[n][k] = total * L::load(decays + at);
        const L dexponent = dh[n][k] * before;
        ddecay[k] = dexponent * L::load(a[n0 + n] + lane) + ddecay[k];
        da_sum[n][k] = dexponent * L::load(s.delta[t] + lane) + da_sum[n][k];
      }
      db_n.store(db + n * L::kCount);
      dc_n.store(dc + n * L::kCount);
    }
    for (Index k = 0; k < kBlocks; ++k) {
      ddecay[k].store(s.ddecay[t] + i + k * L::kCount);
      dinput[k].store(s.dinput[t] + i + k * L::kCount);
    }
  }
  for (Index n = 0; n < kCount; ++n)
    for (Index k = 0; k < kBlocks; ++k) {
      const Index lane = i + k * L::kCount;
      dh[n][k].store(carry[n0 + n] + lane);
      (L::load(da[n0 + n] + lane) + da_sum[n][k]).store(da[n0 + n] + lane);
    }
}

/// From the sums over states to the gradients of the rows: du, ddt, dz, ddt_bias and dd.
template <class T>
void finish(const op::SelectiveScanBackward& op, const Chunk& chunk, Index e0,
            const Scratch<Exact<T>>& s, Exact<T>* ddt_bias, Exact<T>* dd) {
  using R = Exact<T>;
  using L = Lanes<R>;
  const bool gated = !op.z.empty();
  const L ln2 = L::all(static_cast<R>(0.693147180559945309417)), one = L::all(1);
  for (Index i = 0; i < kTile; i += L::kCount) {
    const L bias = load_parameter<R>(op.dt_bias, e0 + i), d = load_parameter<R>(op.d, e0 + i);
    const auto column = [&](ConstView x) { return column_of<T>(x, chunk.first, e0 + i); };
    const auto out = [&](View x) { return column_to<T>(x, chunk.first, e0 + i); };
    const auto dt = column(op.dt), us = column(op.u);
    const auto du = out(op.du), ddts = out(op.ddt);
    L ddt_bias_sum = L::load(ddt_bias + i), dd_sum = L::load(dd + i);
    for (Index t = chunk.length - 1; t >= 0; --t) {
      const L u = us.load(t), dsum = L::load(s.dsum[t] + i), dinput = L::load(s.dinput[t] + i);
      du.store(t, d * dsum + L::load(s.delta[t] + i) * dinput);
      const L ddelta = L::load(s.ddecay[t] + i) * ln2 + u * dinput;
      const L ddt = ddelta * softplus_slope(dt.load(t) + bias);
      ddts.store(t, ddt);
      ddt_bias_sum = ddt_bias_sum + ddt;
      dd_sum = dd_sum + dsum * u;
    }
    ddt_bias_sum.store(ddt_bias + i);
    dd_sum.store(dd + i);
    if (!gated) continue;
    const auto zs = column(op.z), dy = column(op.dy);
    const auto dz = out(op.dz);
    for (Index t = 0; t < chunk.length; ++t) {
      const L z = zs.load(t), gate = L::load(s.gate[t] + i);
      const L ungated = L::load(s.y[t] + i) + d * us.load(t);
      dz.store(t, dy.load(t) * ungated * (gate * (one + z * (one - gate))));
    }
  }
}

template <class T>
void chunk_of_tile(const op::SelectiveScanBackward& op, const Chunk& chunk, Index tile,
                   const Shared& shared, const Scratch<Exact<T>>& s) {
  using R = Exact<T>;
  using L = Lanes<R>;
  const Index states = op.a_log.cols, e0 = tile * kTile;
  const auto rows = [&](const Matrix& m) { return reinterpret_cast<Row<R>*>(m.row<R>(tile)); };
  Row<R>* a = rows(shared.a);
  Row<R>* carry = rows(shared.carry);
  Row<R>* da = rows(shared.da);
  load_state(op.h.row<R>(chunk.row), op.dy.cols, states, tile_of(tile, op.dy.cols), s.h);
  prepare<T>(op, chunk, e0, s);
  for (Index i = 0; i < kTile; i += kBlocks * L::kCount) {
    Index n = 0;
    for (; n + kStates <= states; n += kStates) {
      replay<kStates>(s, a, states, n, i, chunk.length);
      retrace<kStates>(s, a, carry, da, states, n, i, chunk.length);
    }
    for (; n < states; ++n) {
      replay<1>(s, a, states, n, i, chunk.length);
      retrace<1>(s, a, carry, da, states, n, i, chunk.length);
    }
  }
  finish<T>(op, chunk, e0, s, shared.channels.row<R>(0) + e0, shared.channels.row<R>(1) + e0);
}

/// Everything about tiles first .. last - 1; their share of db and dc goes to rows of part.
template <class T>
void backward_tiles(const op::SelectiveScanBackward& op, Index part, Index first, Index last,
                    const Shared& shared, const Scratch<Exact<T>>& s) {
  using R = Exact<T>;
  using L = Lanes<R>;
  const Index states = op.a_log.cols;
  const auto clear = [&](View x) {
    for (Index tile = first; tile < last; ++tile) std::fill_n(x.row<R>(tile), x.cols, R{0});
  };
  for (Index tile = first; tile < last; ++tile)
    load_decay(op.a_log, tile_of(tile, op.a_log.rows),
               reinterpret_cast<Row<R>*>(shared.a.row<R>(tile)));
  clear(shared.da);
  for (const Index row : {0, 1})
    std::fill_n(shared.channels.row<R>(row) + first * kTile, (last - first) * kTile, R{0});
  for (Index i = 0; i < op.batch.count; ++i) {
    const Span& span = op.batch.spans[i];
    const Index count = (span.length + op.chunk - 1) / op.chunk;
    clear(shared.carry);
    for (Index k = count - 1; k >= 0; --k) {
      const Chunk chunk{span.first + k * op.chunk, std::min(op.chunk, span.length - k * op.chunk),
                        op::SelectiveScan::chunk_row(span, i, op.chunk) + k};
      load_rows<T>(op.b, chunk.first, chunk.length, s.b);
      load_rows<T>(op.c, chunk.first, chunk.length, s.c);
      std::fill_n(s.db, chunk.length * states * L::kCount, R{0});
      std::fill_n(s.dc, chunk.length * states * L::kCount, R{0});
      for (Index tile = first; tile < last; ++tile) chunk_of_tile<T>(op, chunk, tile, shared, s);
      for (Index t = 0; t < chunk.length; ++t) {
        R* row = shared.rows.row<R>(part * op.dy.rows + chunk.first + t);
        for (Index n = 0; n < states; ++n) {
          row[n] = sum(L::load(s.db + (t * states + n) * L::kCount));
          row[states + n] = sum(L::load(s.dc + (t * states + n) * L::kCount));
        }
      }
    }
  }
}

/// Adds what the parts have found to the gradients of parameters, and writes db and dc.
template <class T>
void reduce(CpuStream& stream, const op::SelectiveScanBackward& op, Index parts,
            const Shared& shared) {
  using R = Exact<T>;
  const Index states = op.a_log.cols, channels = op.dy.cols, tokens = op.dy.rows;
  for (Index e = 0; e < channels; ++e) {
    op.ddt_bias.row<R>(0)[e] += shared.channels.row<R>(0)[e];
    op.dd.row<R>(0)[e] += shared.channels.row<R>(1)[e];
  }
  parallel_ranges(stream, tiles_of(channels), 8, [&](Index first, Index last) {
    for (Index e = first * kTile; e < std::min(last * kTile, channels); ++e)
      for (Index n = 0; n < states; ++n) {
        const Index at = n * kTile + e % kTile;
        const R a = shared.a.row<R>(e / kTile)[at] * static_cast<R>(0.693147180559945309417);
        op.da_log.row<R>(e)[n] += shared.da.row<R>(e / kTile)[at] * a;
      }
  });
  parallel_ranges(stream, tokens, 256, [&](Index first, Index last) {
    for (Index t = first; t < last; ++t)
      for (Index n = 0; n < 2 * states; ++n) {
        R total = shared.rows.row<R>(t)[n];
        for (Index part = 1; part < parts; ++part)
          total += shared.rows.row<R>(part * tokens + t)[n];
        if (n < states)
          put(op.db.row<T>(t)[n], total);
        else
          put(op.dc.row<T>(t)[n - states], total);
      }
  });
}

}  // namespace

template <Tier>
void run_on(CpuStream& stream, const op::SelectiveScanBackward& op) {
  const Index states = op.a_log.cols, tiles = tiles_of(op.dy.cols), tokens = op.dy.rows;
  const Index parts = std::clamp<Index>(tiles, 1, stream.threads());
  visit_float(op.dtype(), [&]<class T>() {
    using R = Exact<T>;
    constexpr DType exact = dtype_of<R>();
    const Shared shared{.a = Matrix(stream, exact, tiles, states * kTile),
                        .carry = Matrix(stream, exact, tiles, states * kTile),
                        .da = Matrix(stream, exact, tiles, states * kTile),
                        .channels = Matrix(stream, exact, 2, tiles * kTile),
                        .rows = Matrix(stream, exact, parts * tokens, 2 * states)};
    const Matrix memory(stream, exact, parts, Scratch<R>::size(states));
    // One range each: the sums over channels depend on the number of threads, not on their pace.
    parallel_ranges(stream, parts, 1, [&](Index first, Index last) {
      for (Index part = first; part < last; ++part)
        backward_tiles<T>(op, part, tiles * part / parts, tiles * (part + 1) / parts, shared,
                          Scratch<R>(memory.row<R>(part), states));
    });
    reduce<T>(stream, op, parts, shared);
  });
}

template void run_on<kTier>(CpuStream&, const op::SelectiveScanBackward&);

}  // namespace samba
