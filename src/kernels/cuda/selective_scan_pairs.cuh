#pragma once

#include "kernels/cuda/selective_scan_shares.cuh"

// The backward of models with at most kGroup states whose rows can be read two channels at once. A
// warp takes 16 neighbouring channels with all their states, so that warps wait for each other only
// where db and dc are summed over channels, once a chunk.
//
// Lane (g, q) = (lane / 4, lane % 4) has states 4 q .. 4 q + 3 of channels 2 g and 2 g + 1. Going
// forward through a chunk it keeps every second state; going back it finds the ones between again
// from the decays, which it needs in any case. Instructions of sm_90a, for a token of a state:
//
//   forward   exponent, decay, input b, h                                        4
//             shares read, states kept                                           1
//   back      exponent, decay, every second h                                    3
//             total, dh, dexponent; y, db, dc, dinput, ddecay, da                9
//             shares read, sums over q (y, dinput, ddecay) and g (db, dc)        4
//             du, ddt, dz and addresses                                          3
//   steps, gates and rows of b and c before, sums over the warps behind          4
//
// 28 in all, of which two exponentials take the special-function unit 8 cycles each. With states
// in four warps, whose sums pass through shared memory between barriers, it was 31.

namespace samba {
namespace {

/// A warp's channels and what it works through at once.
template <class T, bool gated_, int warps_, int blocks_, bool ahead_>
struct Pairs {
  using Type = T;
  static constexpr bool gated = gated_;
  static constexpr int warps = warps_;
  static constexpr int blocks = blocks_;  ///< that share a multiprocessor
  static constexpr bool ahead =
      ahead_;  ///< what a pair reads is read before the last one's sums leave
  static constexpr int channels = 16;  ///< of a warp
  static constexpr int tile = warps * channels;
  static constexpr int threads = warps * kLanes;
  // For RowLoader and SharedRows:
  static constexpr int piece = kShortest;
  static constexpr int parts = warps;
  static constexpr int states = 4;

  static constexpr int stretch = 4;  ///< tokens whose sums wait in shared memory
  static constexpr int stretches = piece / stretch;
  static_assert(stretch * channels == 2 * kLanes, "a lane finishes two channels of a token");
  static_assert(piece * 8 % threads == 0);
};

/// Both channels of each state of a lane.
struct Quad {
  float values[4][2];

  __device__ float* operator[](int i) { return values[i]; }
  __device__ const float* operator[](int i) const { return values[i]; }
};

/// Steps and inputs of two neighbouring channels.
struct alignas(16) PairStep {
  float delta[2], input[2];
};

/// What a warp has in shared memory.
template <class P>
struct WarpShared {
  PairStep steps[P::piece][8];
  Pack<2> dsum[P::piece][8];  ///< gradient of h c + d u
  /// The states before every second token, each lane's in two units; where a stretch is done, its
  /// sums of db and dc over the warp's channels.
  Pack<4> kept[P::piece / 2][2][kLanes];
  /// Of a stretch: a lane's shares in db and dc, and in the sums over states.
  Pack<4> products[P::stretch][2][kLanes];
  Pack<4> slopes[P::stretch][kLanes];
  Pack<2> y[P::stretch][kLanes];
};

template <class P>
struct PairShared {
  WarpShared<P> warps[P::warps];
  SharedRows<P> rows;
};

/// Where lane (g, q) leaves a share of a token in a sum over q: lanes that write at once and lanes
/// that read at once, one q of all g, find theirs in different banks.
__device__ inline int sum_place(int token, int g, int q) {
  return (q * 8 + (g ^ (2 * q))) ^ ((token & 1) * 8);
}

template <class P>
class PairBackward {
 public:
  using T = typename P::Type;

  __device__ PairBackward(const op::SelectiveScanBackward& call, const Shares& all,
                          PairShared<P>& memory, int tile_of_block)
      : op(call),
        shares(all),
        block(memory),
        s(memory.warps[threadIdx.x / kLanes]),
        tile(tile_of_block),
        e_states(tile * P::tile + warp * P::channels + 2 * g),
        e_tokens(tile * P::tile + warp * P::channels + 2 * own_pair) {
    count = e_states < channels() ? static_cast<int>(op.a_log.cols) - 4 * q : 0;
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        a[i][k] = i < count ? decay_of(op.a_log.row<float>(e_states + k)[4 * q + i]) : 0;
        da[i][k] = 0;
      }
    own_exist = e_tokens < channels();
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      d[k] = own_exist ? op.d.row<float>(0)[e_tokens + k] : 0;
      dbias[k] = dd[k] = 0;
    }
  }

  __device__ void span(const Span& span, Index index) {
#pragma unroll
    for (int i = 0; i < 4; ++i) dh[i][0] = dh[i][1] = 0;
    const int first = static_cast<int>(span.first), length = static_cast<int>(span.length);
    const int last = (length - 1) / P::piece;
    const float* start =
        op.h.row<float>(op::SelectiveScan::chunk_row(span, index, P::piece) + last);
    for (int t = last * P::piece; t >= 0; t -= P::piece, start -= op.h.stride)
      chunk(first + t, min(length - t, P::piece), start);
  }

  /// Leaves what the block's spans add to the gradients of parameters.
  __device__ void leave(float* to) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      Pack<2> both;
#pragma unroll
      for (int k = 0; k < 2; ++k) both[k] = da[i][k] * (a[i][k] * kLn2);
      if (i < count) *reinterpret_cast<Pack<2>*>(to + (4 * q + i) * channels() + e_states) = both;
    }
    // Lanes that finished other tokens of the same channels.
    const auto sum = [](float x) {
      x += __shfl_xor_sync(0xffffffffu, x, 8);
      return x + __shfl_xor_sync(0xffffffffu, x, 16);
    };
    Pack<2> both[2];
#pragma unroll
    for (int k = 0; k < 2; ++k) both[0][k] = sum(dbias[k]), both[1][k] = sum(dd[k]);
    if (own_token > 0 || !own_exist) return;
#pragma unroll
    for (int i = 0; i < 2; ++i)
      *reinterpret_cast<Pack<2>*>(to + (kGroup + i) * channels() + e_tokens) = both[i];
  }

 private:
  /// What a lane finishes a token with.
  struct Own {
    Raw<T, 2> u, z, dy;
  };

  __device__ int channels() const { return static_cast<int>(op.dy.cols); }

  __device__ void chunk(int first, int length, const float* start) {
    Own own[P::stretches];
    prepare(first, length, own);
    Quad h;
    const float* from = start + 4 * q * channels() + e_states;
#pragma unroll
    for (int i = 0; i < 4; ++i, from += channels()) {
      Pack<2> both{};
      if (i < count) both = *reinterpret_cast<const Pack<2>*>(from);
      h[i][0] = both[0], h[i][1] = both[1];
    }
#pragma unroll 1
    for (int k = 0; k < P::stretches; ++k) forward(k, h);
    Read next;
    if (P::ahead) next = read(2 * P::stretches - 1);
#pragma unroll
    for (int k = P::stretches - 1; k >= 0; --k)
      back(first, k, length - k * P::stretch, h, next, own[k]);
    __syncthreads();
    add_rows(first, length);
  }

  /// Brings the chunk's steps and rows to shared memory; tokens beyond its length change nothing.
  __device__ void prepare(int first, int length, Own (&own)[P::stretches]) {
    const RowLoader<T, P> loader(op.b, op.c, {0, static_cast<int>(op.a_log.cols)}, threadIdx.x);
    T row_values[RowLoader<T, P>::kTurns];
    loader.load(row_values, first, length);
    Raw<T, 2> dt[P::stretches];
#pragma unroll
    for (int i = 0; i < P::stretches; ++i) {
      const int t = i * P::stretch;
      const int left = own_exist && t + own_token < length ? 2 : 0;
      const auto from = [&](ConstView rows) {
        return at<T>(rows, first + own_token, e_tokens) + t * rows.stride;
      };
      // Minus infinity is a step of 0, which changes nothing.
      dt[i].template load<true>(from(op.dt), left, dt[i].kLowest);
      own[i].u.template load<true>(from(op.u), left);
      own[i].dy.template load<true>(from(op.dy), left);
      if (P::gated) own[i].z.template load<true>(from(op.z), left);
    }
    Pack<2> bias{};
    if (own_exist) bias = *reinterpret_cast<const Pack<2>*>(op.dt_bias.row<float>(0) + e_tokens);
    __syncthreads();  // all have added up the sums of the chunk before
    loader.store(block.rows, row_values);
#pragma unroll
    for (int i = 0; i < P::stretches; ++i) {
      PairStep step;
      Pack<2> dsum;
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        step.delta[k] = softplus<T>(dt[i][k] + bias[k]);
        step.input[k] = step.delta[k] * own[i].u[k];
        const float dy = own[i].dy[k], z = own[i].z[k];
        dsum[k] = P::gated ? dy * (z * sigmoid_of<T>(z)) : dy;
      }
      s.steps[i * P::stretch + own_token][own_pair] = step;
      s.dsum[i * P::stretch + own_token][own_pair] = dsum;
    }
    __syncthreads();
  }

  __device__ void find(Quad& decays, const PairStep& step) const {
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int k = 0; k < 2; ++k) decays[i][k] = exp2_of<T>(step.delta[k] * a[i][k]);
  }
  __device__ static void move(Quad& h, const Quad& decays, const PairStep& step, const Pack<4>& b) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int k = 0; k < 2; ++k) h[i][k] = fmaf(decays[i][k], h[i][k], step.input[k] * b[i]);
  }

  /// Moves h along stretch k and keeps every second one.
  __device__ void forward(int k, Quad& h) {
    const int t0 = k * P::stretch;
#pragma unroll
    for (int t = 0; t < P::stretch; ++t) {
      const PairStep step = s.steps[t0 + t][g];
      const Pack<4> b = block.rows.b(t0 + t, q);
      if (t % 2 == 0)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          s.kept[(t0 + t) / 2][half][lane] = {h[2 * half][0], h[2 * half][1], h[2 * half + 1][0],
                                              h[2 * half + 1][1]};
      Quad decays;
      find(decays, step);
      move(h, decays, step, b);
    }
  }

  /// What a lane reads for two tokens, and the states before them.
  struct Read {
    PairStep step[2];
    Pack<2> dsum[2];
    Pack<4> b[2], c[2], kept[2];
  };
  __device__ Read read(int pair) const {
    Read r;
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      r.step[t] = s.steps[2 * pair + t][g];
      r.dsum[t] = s.dsum[2 * pair + t][g];
      r.b[t] = block.rows.b(2 * pair + t, q), r.c[t] = block.rows.c(2 * pair + t, q);
      r.kept[t] = s.kept[pair][t][lane];
    }
    return r;
  }

  /// A lane's shares in the sums of a token.
  struct Sums {
    Pack<4> db, dc, slopes;  ///< slopes: of delta u, then of the decays' exponents
    Pack<2> y;
  };

  /// Goes back over one token, given the states before and after it.
  __device__ Sums go_back(const PairStep& step, const Pack<2>& dsum, const Pack<4>& b,
                          const Pack<4>& c, const Quad& decays, const Quad& before,
                          const Quad& after) {
    Sums sums;
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        float &db = sums.db[i], &dc = sums.dc[i], &y = sums.y[k];
        float &dinput = sums.slopes[k], &ddecay = sums.slopes[2 + k];
        const float total = fmaf(dsum[k], c[i], dh[i][k]);
        y = i == 0 ? after[i][k] * c[i] : fmaf(after[i][k], c[i], y);
        db = k == 0 ? total * step.input[k] : fmaf(total, step.input[k], db);
        dc = k == 0 ? dsum[k] * after[i][k] : fmaf(dsum[k], after[i][k], dc);
        dinput = i == 0 ? total * b[i] : fmaf(total, b[i], dinput);
        dh[i][k] = total * decays[i][k];
        const float dexponent = dh[i][k] * before[i][k];
        ddecay = i == 0 ? dexponent * a[i][k] : fmaf(dexponent, a[i][k], ddecay);
        da[i][k] = fmaf(dexponent, step.delta[k], da[i][k]);
      }
    return sums;
  }

  /// Goes back over stretch k, whose first row is `first + k * stretch` and of which `length`
  /// tokens exist. `after` is the state behind it, then that before it.
  __device__ void back(int first, int k, int length, Quad& after, Read& next, const Own& own) {
    const int t_own = k * P::stretch + own_token, row = first + t_own;
    const int left = own_exist && own_token < length ? 2 : 0;
#pragma unroll
    for (int half = 1; half >= 0; --half) {
      const Read now = P::ahead ? next : read(2 * k + half);
      Quad before, decays[2];
#pragma unroll
      for (int i = 0; i < 4; ++i)
        before[i][0] = now.kept[i / 2][i % 2 * 2], before[i][1] = now.kept[i / 2][i % 2 * 2 + 1];
      find(decays[1], now.step[1]);
      find(decays[0], now.step[0]);
      Quad middle = before;
      move(middle, decays[0], now.step[0], now.b[0]);
      Sums sums[2];
      sums[1] = go_back(now.step[1], now.dsum[1], now.b[1], now.c[1], decays[1], middle, after);
      sums[0] = go_back(now.step[0], now.dsum[0], now.b[0], now.c[0], decays[0], before, middle);
      after = before;
      // Reads may not overtake writes to shared memory.
      if (P::ahead && (k > 0 || half > 0)) next = read(2 * k + half - 1);
#pragma unroll
      for (int t = 0; t < 2; ++t) {
        const int token = half * 2 + t, place = sum_place(token, g, q);
        s.products[token][0][lane] = sums[t].db;
        s.products[token][1][lane] = sums[t].dc;
        s.slopes[token][place] = sums[t].slopes;
        s.y[token][place] = sums[t].y;
      }
    }
    __syncwarp();
    // A lane adds four neighbours of db or dc of a token over the warp's channels.
    const int token = lane / 8, which = lane / 4 % 2;
    Pack<4> sum = s.products[token][which][which * 4 + q];
#pragma unroll
    for (int j = 1; j < 8; ++j) {
      const Pack<4> more = s.products[token][which][(j ^ which) * 4 + q];
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[i] += more[i];
    }
    sums_of(k)[token * 8 + q * 2 + which] = sum;
    finish(t_own, row, left, own);
    __syncwarp();
  }

  /// Where a warp leaves its sums of db and dc of stretch k: the states of two tokens of it, which
  /// are not read any more.
  __device__ Pack<4>* sums_of(int k) const { return &s.kept[2 * k + 1][0][0]; }

  /// Two channels of a token, whose sums over the states are complete.
  __device__ void finish(int t, int row, int left, const Own& own) {
    Pack<4> slopes[4];
    Pack<2> y[4];
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      const int place = sum_place(own_token, own_pair, p);
      slopes[p] = s.slopes[own_token][place], y[p] = s.y[own_token][place];
    }
    const PairStep step = s.steps[t][own_pair];
    const Pack<2> dsum = s.dsum[t][own_pair];
    float du[2], ddt[2], dz[2];
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const float dinput = (slopes[0][k] + slopes[1][k]) + (slopes[2][k] + slopes[3][k]);
      const float ddecay =
          (slopes[0][2 + k] + slopes[1][2 + k]) + (slopes[2][2 + k] + slopes[3][2 + k]);
      du[k] = fmaf(d[k], dsum[k], step.delta[k] * dinput);
      ddt[k] = fmaf(ddecay, kLn2, own.u[k] * dinput) * softplus_slope<T>(step.delta[k]);
      dbias[k] += ddt[k];
      dd[k] = fmaf(dsum[k], own.u[k], dd[k]);
      if (!P::gated) continue;
      const float sum = (y[0][k] + y[1][k]) + (y[2][k] + y[3][k]);
      dz[k] =
          own.dy[k] * fmaf(d[k], own.u[k], sum) * silu_slope_of(own.z[k], sigmoid_of<T>(own.z[k]));
    }
    store_run<true>(at<T>(op.du, row, e_tokens), du, left);
    store_run<true>(at<T>(op.ddt, row, e_tokens), ddt, left);
    if (P::gated) store_run<true>(at<T>(op.dz, row, e_tokens), dz, left);
  }

  /// The sums over the block's channels go to their rows, a thread for four neighbours.
  __device__ void add_rows(int first, int length) {
#pragma unroll
    for (int turn = 0; turn < P::piece * 8 / P::threads; ++turn) {
      const int i = turn * P::threads + static_cast<int>(threadIdx.x);
      const int t = i / 8, k = t / P::stretch, place = t % P::stretch * 8 + i % 8;
      if (t >= length) continue;
      const auto of = [&](int w) { return (&block.warps[w].kept[2 * k + 1][0][0])[place]; };
      Pack<4> sum = of(0);
#pragma unroll
      for (int w = 1; w < P::warps; ++w) {
        const Pack<4> more = of(w);
#pragma unroll
        for (int j = 0; j < 4; ++j) sum[j] += more[j];
      }
      reinterpret_cast<Pack<4>*>(shares.rows.row<float>(tile * op.dy.rows + first + t))[i % 8] =
          sum;
    }
  }

  const op::SelectiveScanBackward& op;
  const Shares& shares;
  PairShared<P>& block;
  WarpShared<P>& s;
  const int lane = threadIdx.x % kLanes, warp = threadIdx.x / kLanes;
  const int g = lane / 4, q = lane % 4;                 // its states
  const int own_token = lane / 8, own_pair = lane % 8;  // of a stretch: what it prepares, finishes
  const int tile;
  const int e_states, e_tokens;  // the first of the two channels of either
  int count;                     // of its states that exist, if more than none
  bool own_exist;
  Quad a, dh, da;
  float d[2], dbias[2], dd[2];
};

/// A block moves one tile of channels back along the spans of one range, one after the other.
template <class P>
__global__ void __launch_bounds__(P::threads, P::blocks)
    scan_pairs_back(const op::SelectiveScanBackward op, const Shares shares) {
  extern __shared__ __align__(16) std::byte memory[];
  const int tiles = static_cast<int>(ceil_div(op.dy.cols, P::tile));
  const Index range = static_cast<int>(blockIdx.x) / tiles, ranges = shares.parameters.rows;
  PairBackward<P> backward(op, shares, *reinterpret_cast<PairShared<P>*>(memory),
                           static_cast<int>(blockIdx.x) % tiles);
  const Index last = op.batch.count * (range + 1) / ranges;
  for (Index i = op.batch.count * range / ranges; i < last; ++i)
    backward.span(op.batch.spans[i], i);
  backward.leave(shares.parameters.row<float>(range));
}

}  // namespace
}  // namespace samba
