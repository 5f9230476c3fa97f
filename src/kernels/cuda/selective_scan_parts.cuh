#pragma once

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/raw.cuh"
#include "kernels/cuda/scan_math.cuh"
#include "kernels/selective_scan.h"

// What the scan and its backward share. A block takes neighbouring channels of one span and moves
// them along it, piece by piece; its warps hold a few states each of all of these channels, in
// registers. What the states of a channel have in common at a token, its step and its input, is
// worked out once, by threads that take some channels of a token each, and passes through shared
// memory to where the states are; so do the tokens' b and c, and the states' sums the other way.

namespace samba {
namespace {

constexpr int kLanes = 32;
constexpr int kGroup = 16;  // states of a channel in a block; a model with more takes several turns
constexpr int kShortest = static_cast<int>(op::SelectiveScan::kShortest);

/// How a block is cut: a thread holds `states` states of `wide` neighbouring channels.
template <int wide_, int states_, int piece_>
struct Shape {
  static constexpr int wide = wide_;
  static constexpr int states = states_;
  static constexpr int piece = piece_;  ///< tokens that pass through shared memory at a time
  static constexpr int tile = wide * kLanes;
  static constexpr int parts = kGroup / states;  ///< warps
  static constexpr int threads = parts * kLanes;
  static constexpr int run =
      tile * piece / threads;  ///< channels of a token that a thread prepares
  static constexpr int runs = tile / run;
  static constexpr int blocks = 3;  ///< that registers leave room for in a multiprocessor
  static_assert(piece % kShortest == 0 && piece % parts == 0 && run % wide == 0 &&
                run * 2 % 4 == 0);
};

/// States n0 .. n0 + count - 1 of a model that may have more of them than a block holds.
struct States {
  Index n0;
  int count;
};

/// `n` floats that shared memory reads and writes at once.
template <int n>
struct alignas(n * sizeof(float)) Pack {
  float values[n];

  __device__ float operator[](int i) const { return values[i]; }
  __device__ float& operator[](int i) { return values[i]; }
};

/// Where byte `offset` of a row of shared memory lies that lanes read in order and threads write
/// (or the other way) that have `bytes` of it each: pieces of 16 bytes change places so that
/// neighbouring threads, too, find theirs in different banks.
__device__ constexpr int swizzled(int offset, int bytes) {
  const int unit = offset / 16, mask = bytes > 16 ? bytes / 16 - 1 : 0;
  return (unit ^ ((unit >> 3) & mask)) * 16 + offset % 16;
}

/// log(1 + x) for x in [0, 1] with an error below 2e-7: cpu/simd_math.h's polynomial. The
/// special-function unit's logarithm is not good enough for the gradients of parameters.
__device__ inline float log1p_of(float x) {
  const float x2 = x * x, x4 = x2 * x2;
  const float low = fmaf(fmaf(-0.24857163f, x, 0.33321324f), x2, -0.49999648f * x);
  const float high =
      fmaf(fmaf(-0.030065792f, x, 0.07920454f), x2, fmaf(-0.13753803f, x, 0.19153655f));
  return fmaf(fmaf(fmaf(0.0053648246f, x4, high), x4, low), x, x);
}

/// log(1 + e^x)
template <class T>
__device__ inline float softplus(float x) {
  return fmaxf(x, 0) + log1p_of(exp_of<T>(-fabsf(x)));
}

/// d softplus(x) / dx = 1 - e^-softplus(x)
template <class T>
__device__ inline float softplus_slope(float softplus_of_x) {
  if constexpr (sizeof(T) == 4) return -expm1f(-softplus_of_x);
  return 1 - exp_of<T>(-softplus_of_x);
}

/// log2(e) A: h decays by exp2(delta a). An error of A grows with every token that the state lives
/// through, so that A alone is computed in double.
__device__ inline float decay_of(float a_log) {
  return static_cast<float>(-1.44269504088896340736 * exp(static_cast<double>(a_log)));
}

/// Where the states of a thread stand.
template <class S>
struct Place {
  int channels;  ///< of the model
  int e;         ///< its channels, the first of S::wide
  int n;         ///< its states, the first of S::states
  int count;     ///< those that exist; 0 beyond the last channel

  __device__ Place(Index all, int tile, States states) : channels(static_cast<int>(all)) {
    const int lane = threadIdx.x % kLanes, part = threadIdx.x / kLanes;
    e = tile * S::tile + lane * S::wide;
    n = static_cast<int>(states.n0) + part * S::states;
    count = e < channels ? min(S::states, max(0, states.count - part * S::states)) : 0;
  }

  /// Reads from a row that holds a state, state by state.
  __device__ void load(float (&h)[S::states][S::wide], const float* row) const {
#pragma unroll
    for (int i = 0; i < S::states; ++i) {
      Pack<S::wide> values{};
      if (i < count)
        values = *reinterpret_cast<const Pack<S::wide>*>(row + ((n + i) * channels + e));
#pragma unroll
      for (int k = 0; k < S::wide; ++k) h[i][k] = values[k];
    }
  }
  __device__ void store(float* row, const float (&h)[S::states][S::wide]) const {
#pragma unroll
    for (int i = 0; i < S::states; ++i) {
      Pack<S::wide> values;
#pragma unroll
      for (int k = 0; k < S::wide; ++k) values[k] = h[i][k];
      if (i < count) *reinterpret_cast<Pack<S::wide>*>(row + ((n + i) * channels + e)) = values;
    }
  }
  /// decay_of the channels' a_log, or `decay` where it is given; 0 for states that do not exist.
  __device__ void load_decay(float (&a)[S::states][S::wide], ConstView a_log,
                             ConstView decay) const {
#pragma unroll
    for (int i = 0; i < S::states; ++i)
#pragma unroll
      for (int k = 0; k < S::wide; ++k) {
        a[i][k] = 0;
        if (i >= count) continue;
        a[i][k] = decay.empty() ? decay_of(a_log.row<float>(e + k)[n + i])
                                : decay.row<float>(n + i)[e + k];
      }
  }
};

/// The channels of a token that a thread prepares and finishes.
template <class S>
struct Run {
  int t;     ///< the token of the piece
  int j;     ///< which run of its channels
  int e;     ///< the first
  int left;  ///< how many there are from there on

  __device__ Run(Index channels, int tile, int thread) {
    t = thread / S::runs, j = thread % S::runs;
    e = tile * S::tile + j * S::run;
    left = static_cast<int>(channels) - e;
  }
};

/// Brings a parameter's values for the channels of a tile to shared memory; zeros beyond the last.
template <class S>
__device__ inline void load_parameters(Pack<4> (&to)[S::tile / 4], ConstView from, int tile) {
  for (int i = threadIdx.x; i < S::tile; i += S::threads) {
    const int e = tile * S::tile + i;
    to[i / 4][i % 4] = e < from.cols ? from.row<float>(0)[e] : 0;
  }
}

/// A token's step delta and its input delta u, for the channels of a lane.
template <class S>
struct alignas(2 * S::wide * sizeof(float)) Step {
  float delta[S::wide];
  float input[S::wide];
};

/// The steps of a piece in shared memory.
template <class S>
struct Steps {
  static constexpr int kRunBytes = S::run * 2 * static_cast<int>(sizeof(float));
  alignas(16) std::byte rows[S::piece][S::runs * kRunBytes];

  __device__ void put(const Run<S>& run, const float (&delta)[S::run],
                      const float (&input)[S::run]) {
#pragma unroll
    for (int q = 0; q < kRunBytes / 16; ++q) {
      Pack<4> unit;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int lane = (q * 4 + i) / (2 * S::wide), k = (q * 4 + i) % (2 * S::wide);
        unit[i] = k < S::wide ? delta[lane * S::wide + k] : input[lane * S::wide + k - S::wide];
      }
      const int offset = swizzled(run.j * kRunBytes + q * 16, kRunBytes);
      *reinterpret_cast<Pack<4>*>(rows[run.t] + offset) = unit;
    }
  }
  /// Where a lane's lie in each row.
  __device__ static int place(int lane) {
    return swizzled(lane * static_cast<int>(sizeof(Step<S>)), kRunBytes);
  }
  __device__ Step<S> get(int t, int place) const {
    return *reinterpret_cast<const Step<S>*>(rows[t] + place);
  }
};

/// A number for each channel of some tokens in shared memory, for lanes' own channels or runs of
/// them.
template <class S, int tokens>
struct Sums {
  static constexpr int kRunBytes = S::run * static_cast<int>(sizeof(float));
  alignas(16) std::byte rows[tokens][S::tile * sizeof(float)];

  /// Where a lane's lie in each row.
  __device__ static int place(int lane) {
    return swizzled(lane * S::wide * static_cast<int>(sizeof(float)), kRunBytes);
  }
  __device__ Pack<S::wide>& of_lane(int t, int place) {
    return *reinterpret_cast<Pack<S::wide>*>(rows[t] + place);
  }
  /// Four of run j, the q-th.
  __device__ Pack<4>& of_run(int t, int j, int q) {
    return *reinterpret_cast<Pack<4>*>(rows[t] + swizzled(j * kRunBytes + q * 16, kRunBytes));
  }
};

/// The b and c of a piece in shared memory.
template <class S>
struct alignas(16) SharedRows {
  float values[S::piece][2 * kGroup];

  __device__ Pack<S::states> b(int t, int part) const { return get(t, part * S::states); }
  __device__ Pack<S::states> c(int t, int part) const { return get(t, kGroup + part * S::states); }

 private:
  __device__ Pack<S::states> get(int t, int col) const {
    return *reinterpret_cast<const Pack<S::states>*>(&values[t][col]);
  }
};

/// Brings b and c there: a thread has four columns of a token.
template <class T, class S>
struct RowLoader {
  static_assert(S::threads * 4 == S::piece * 2 * kGroup);
  using Values = Raw<T, 4>;
  const std::byte* data;  ///< the first of its columns
  int stride;             ///< bytes
  int t, column;
  int left;       ///< of its columns, those that exist
  bool together;  ///< all of them, and they can be read at once

  __device__ RowLoader(ConstView b, ConstView c, States states, int thread)
      : t(thread / 8), column(thread % 8 * 4) {
    const int n = column % kGroup;
    const ConstView from = column < kGroup ? b : c;
    data = from.data + (states.n0 + n) * Index{sizeof(T)};
    stride = static_cast<int>(from.stride) * static_cast<int>(sizeof(T));
    left = min(4, states.count - n);
    const auto place = static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(data)) |
                       static_cast<unsigned>(stride);
    together = left == 4 && place % (4 * sizeof(T)) == 0;
  }
  /// Of `length` tokens from row `first` on; zeros beyond them and beyond the last state.
  __device__ void load(Values& values, int first, int length) const {
    const auto* from = reinterpret_cast<const T*>(offset_by(data, first + t, stride));
    const int here = t < length ? left : 0;
    if (together)
      values.template load<true>(from, here);
    else
      values.template load<false>(from, here);
  }
  __device__ void store(SharedRows<S>& rows, const Values& values) const {
    *reinterpret_cast<Pack<4>*>(&rows.values[t][column]) = {values[0], values[1], values[2],
                                                            values[3]};
  }
};

/// exp2(delta a)
template <class T, class S>
__device__ inline void find_decays(float (&decays)[S::states][S::wide],
                                   const float (&a)[S::states][S::wide], const Step<S>& step) {
#pragma unroll
  for (int i = 0; i < S::states; ++i)
#pragma unroll
    for (int k = 0; k < S::wide; ++k) decays[i][k] = exp2_of<T>(step.delta[k] * a[i][k]);
}

/// h = exp2(delta a) h + delta u b
template <class S>
__device__ inline void advance(float (&h)[S::states][S::wide],
                               const float (&decays)[S::states][S::wide], const Step<S>& step,
                               const Pack<S::states>& b) {
#pragma unroll
  for (int i = 0; i < S::states; ++i)
#pragma unroll
    for (int k = 0; k < S::wide; ++k) h[i][k] = fmaf(decays[i][k], h[i][k], step.input[k] * b[i]);
}

/// h c over a thread's states: pairs first, and pairs of pairs, as its block goes on to do, so that
/// the bits are the same however the states are cut.
template <class S>
__device__ inline Pack<S::wide> sum_of(const float (&h)[S::states][S::wide],
                                       const Pack<S::states>& c) {
  Pack<S::wide> sum;
#pragma unroll
  for (int k = 0; k < S::wide; ++k) {
    sum[k] = fmaf(h[1][k], c[1], h[0][k] * c[0]);
    if constexpr (S::states == 4) sum[k] += fmaf(h[3][k], c[3], h[2][k] * c[2]);
  }
  return sum;
}

/// Adds the parts' sums to those of the block.
template <int parts>
__device__ inline float sum_of_parts(const float (&sums)[parts]) {
  if constexpr (parts == 4)
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
  else
    return ((sums[0] + sums[1]) + (sums[2] + sums[3])) +
           ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

/// Calls f(states, first group?, last group?) for the groups of all states.
template <class F>
void for_groups(Index states, const F& f) {
  for (Index n0 = 0; n0 < states; n0 += kGroup) {
    const Index left = states - n0;
    f(States{n0, static_cast<int>(left < kGroup ? left : kGroup)}, n0 == 0, left <= kGroup);
  }
}

}  // namespace
}  // namespace samba
