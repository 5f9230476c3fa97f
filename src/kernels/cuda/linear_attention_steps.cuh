#pragma once

#include <algorithm>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/vector.cuh"
#include "kernels/linear_attention.h"

// Linear attention token by token, and what it shares with the form in chunks.
//
// The op and all of its gradients are one recurrence over a matrix S [R, C] for each head, with
// other roles (D is the gradient of the state; a the decays, along the keys):
//
//   result  walks    query    key      value    S         decays along
//   y       forward  q [R=K]  k        v [C=V]  state     rows
//   dq      forward  dy [V]   v        k [K]    state^T   columns
//   dv      back     k [K]    q        dy [V]   D         rows
//   dk      back     v [V]    dy       q [K]    D^T       columns
//
//   forward: S = a_t S + key_t value_t^T,  result_t = scale S^T query_t
//   back:    S = S + key_t value_t^T,  result_t = scale S^T query_t,  S = a_t S

namespace samba {
namespace {

/// log2 of the strongest decay of one token that counts.
constexpr float kLeastDecay = -40;

/// log2 of a gated decay, for a gate of type T. All of f32 where T is.
template <class T>
__device__ inline float gated_decay(float gate) {
  constexpr float kFactor =
      static_cast<float>(-1.44269504088896340736 / op::LinearAttention::kGateDivisor);
  float soft;  // -log sigmoid(gate)
  if constexpr (std::is_same_v<T, Bf16>)
    soft = fmaxf(0, -gate) + __logf(1 + __expf(-fabsf(gate)));
  else
    soft = fmaxf(0, -gate) + log1pf(expf(-fabsf(gate)));
  return fmaxf(kLeastDecay, soft * kFactor);
}

/// The slope of the natural logarithm of a gated decay.
template <class T>
__device__ inline float decay_slope(float gate) {
  constexpr float kShare = 1.0f / op::LinearAttention::kGateDivisor;
  return gated_decay<T>(gate) > kLeastDecay ? kShare * sigmoid<T>(-gate) : 0;
}

/// log2 of the constant decay of a head.
__device__ inline float retention(Index head) {
  return static_cast<float>(log2(1 - exp2(-5 - static_cast<double>(head))));
}

/// One of the four walks.
struct Recurrence {
  View result;          ///< [N, H C]
  ConstView query;      ///< [N, H R]
  ConstView key;        ///< [N, H R]
  ConstView value;      ///< [N, H C]
  ConstView gate = {};  ///< along the keys: [N, H R] or [N, H C]; left out: constant decays
  Index heads, rows, cols;
  float scale;
  Batch batch;      ///< its spans in the GPU's memory
  View state = {};  ///< [slots, H R C] in and out, f32; may be left out
  /// For gradients of gates: [N, H * pair_step] f32, to which the walk for dq writes own * dq, and
  /// from which that for dk subtracts own * dk; may be left out.
  View pairs = {};
  Index pair_step = 0;
  ConstView own = {};  ///< [N, H C]: q beside dq, k beside dk
  Index longest;       ///< spans of more tokens are left out
};

/// A range of the rows of S, and the sums over those before it: for more than a block holds.
struct Window {
  Index first, count;
  View sums = {};  ///< [N, H C] f32; left out where there is one window
};

constexpr int kStepThreads = 256, kStepWarps = kStepThreads / 32;
/// Columns of S that a block takes, 4 a thread, and groups of its threads that share the rows.
constexpr int kStepCols = 32, kGroups = kStepThreads / (kStepCols / 4);

/// A block takes one span, one head, and kStepCols columns of S, of which a thread keeps `rows` x 4
/// in registers. Tokens are fetched and their results written `tokens` at a time.
template <class T, int rows, bool reverse, bool columns>
__global__ void __launch_bounds__(kStepThreads)
    walk_tokens(const Recurrence r, const Window window) {
  constexpr int tokens = rows > 8 ? 2 : 8, kRows = rows * kGroups;
  __shared__ float query[tokens][kRows], key[tokens][kRows],
      decay[tokens][columns ? kStepCols : kRows];
  __shared__ float value[tokens][kStepCols], sums[tokens][kStepWarps][kStepCols];
  let_next_begin();
  wait_for_previous();
  const Span span = r.batch.spans[blockIdx.x];
  if (span.length > r.longest) return;
  const Index head = blockIdx.y, first_col = Index{blockIdx.z} * kStepCols;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32;
  const int col = thread % (kStepCols / 4) * 4, row = thread / (kStepCols / 4) * rows;
  const bool kept = !r.state.empty() && span.slot >= 0;
  float* slot = nullptr;
  if (kept)
    slot = r.state.row<float>(span.slot) + (head * r.rows + window.first) * r.cols + first_col;
  const bool whole = r.cols % 4 == 0 && reinterpret_cast<std::uintptr_t>(slot) % 16 == 0;
  const Index left = r.cols - first_col - col;
  float s[rows][4] = {};
  if (kept && span.position > 0 && left > 0) {
#pragma unroll
    for (int i = 0; i < rows; ++i) {
      if (row + i >= window.count) break;
      const float* from = slot + (row + i) * r.cols + col;
      if (whole)
        load<4>(s[i], from);
      else
        load_run<false>(s[i], from, left);
    }
  }

  // Rounded once each: what a decay is off by grows with the tokens that a state remembers.
  const auto constant = static_cast<float>(1 - exp2(-5 - static_cast<double>(head)));
  const auto decay_at = [&](Index token, Index channel) {
    if (r.gate.empty()) return constant;
    constexpr float kLog2 = 0.693147180559945309f;
    return 1 + expm1f(kLog2 * gated_decay<float>(to_float(r.gate.row<T>(token)[channel])));
  };
  for (Index done = 0; done < span.length; done += tokens) {
    const auto token_of = [&](int step) {
      return span.first + (reverse ? span.length - 1 - done - step : done + step);
    };
    const int count = static_cast<int>(min(span.length - done, Index{tokens}));
    __syncthreads();
    for (int i = thread; i < count * kRows; i += kStepThreads) {
      const int step = i / kRows, at = i % kRows;
      const Index token = token_of(step), channel = head * r.rows + window.first + at;
      const bool there = at < window.count;
      query[step][at] = there ? to_float(r.query.row<T>(token)[channel]) : 0;
      key[step][at] = there ? to_float(r.key.row<T>(token)[channel]) : 0;
      if constexpr (!columns) decay[step][at] = there ? decay_at(token, channel) : 1;
    }
    for (int i = thread; i < count * kStepCols; i += kStepThreads) {
      const int step = i / kStepCols, at = i % kStepCols;
      const Index token = token_of(step), channel = head * r.cols + first_col + at;
      const bool there = first_col + at < r.cols;
      value[step][at] = there ? to_float(r.value.row<T>(token)[channel]) : 0;
      if constexpr (columns) decay[step][at] = there ? decay_at(token, channel) : 1;
    }
    __syncthreads();
    for (int step = 0; step < count; ++step) {
      float sum[4] = {};
#pragma unroll
      for (int i = 0; i < rows; ++i) {
        const float q = query[step][row + i], k = key[step][row + i];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float a = columns ? decay[step][col + j] : decay[step][row + i];
          const float added = k * value[step][col + j];
          s[i][j] = reverse ? s[i][j] + added : a * s[i][j] + added;
          sum[j] += q * s[i][j];
          if constexpr (reverse) s[i][j] *= a;
        }
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        sum[j] += __shfl_xor_sync(0xffffffffu, sum[j], 8);
        sum[j] += __shfl_xor_sync(0xffffffffu, sum[j], 16);
        if (thread % 32 < kStepCols / 4) sums[step][warp][col + j] = sum[j];
      }
    }
    __syncthreads();
    const int step = thread / kStepCols, at = thread % kStepCols;
    if (step >= count || first_col + at >= r.cols) continue;
    float sum = 0;
#pragma unroll
    for (int other = 0; other < kStepWarps; ++other) sum += sums[step][other][at];
    const Index token = token_of(step), channel = head * r.cols + first_col + at;
    if (!window.sums.empty()) {
      float& before = window.sums.row<float>(token)[channel];
      if (window.first > 0) sum += before;
      before = sum;
      if (window.first + window.count < r.rows) continue;
    }
    sum *= r.scale;
    r.result.row<T>(token)[channel] = from_float<T>(sum);
    if constexpr (columns)
      if (!r.pairs.empty()) {
        float& pair = r.pairs.row<float>(token)[head * r.pair_step + first_col + at];
        const float share = to_float(r.own.row<T>(token)[channel]) * sum;
        pair = reverse ? pair - share : share;
      }
  }
  if (!kept || left <= 0) return;
#pragma unroll
  for (int i = 0; i < rows; ++i) {
    if (row + i >= window.count) break;
    float* to = slot + (row + i) * r.cols + col;
    if (whole)
      store<4>(to, s[i]);
    else
      store_run<false>(to, s[i], left);
  }
}

/// Queues the walk for the spans that are not too long.
template <class T, bool reverse, bool columns>
void walk_by_tokens(CudaStream& stream, const Recurrence& r) {
  constexpr Index kMostRows = 32 * kGroups;
  Matrix sums;
  if (r.rows > kMostRows) sums = Matrix(stream, DType::f32, r.result.rows, r.result.cols);
  const dim3 grid(static_cast<unsigned>(r.batch.count), static_cast<unsigned>(r.heads),
                  static_cast<unsigned>(ceil_div(r.cols, Index{kStepCols})));
  for (Index first = 0; first == 0 || first < r.rows; first += kMostRows) {
    const Window window{first, std::min(r.rows - first, kMostRows), sums.view()};
    const auto kernel = window.count <= 2 * kGroups   ? walk_tokens<T, 2, reverse, columns>
                        : window.count <= 8 * kGroups ? walk_tokens<T, 8, reverse, columns>
                                                      : walk_tokens<T, 32, reverse, columns>;
    launch_early(stream, kernel, grid, kStepThreads, 0, r, window);
  }
}

}  // namespace
}  // namespace samba
