#pragma once

#include "kernels/causal_conv1d.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/scan_math.cuh"

// The convolution at a span's only token, for kernels that all leave the same bits.

namespace samba {
namespace {

constexpr int kTaps = 4;  ///< of the fast kernels

/// Channel e at the token in row `row`, which is a span by itself. Made of weights and spans alone.
struct TokenConvolution {
  Index e;
  float* state;    ///< null: none
  bool continues;  ///< behind the state
  float w[kTaps];  ///< where there are so many taps
  float bias;

  __device__ TokenConvolution(const op::CausalConv1d& op, Index row, Index channel) : e(channel) {
    const Span span = op.batch.spans[row];
    const bool stateful = !op.state.empty() && span.slot >= 0;
    state = stateful ? op.state.row<float>(span.slot) + e : nullptr;
    continues = stateful && span.position > 0;
#pragma unroll
    for (int j = 0; j < kTaps; ++j) w[j] = op.w.cols == kTaps ? op.w.row<float>(e)[j] : 0;
    bias = op.bias.empty() ? 0 : op.bias.row<float>(0)[e];
  }
  /// The convolution, behind its SiLU, where the token's row holds x; the state moves on.
  template <class T>
  __device__ float run(const op::CausalConv1d& op, float x) const {
    const Index taps = op.w.cols, channels = op.x.cols;
    float sum = bias;
    if (taps == kTaps) {
      float rows[kTaps];
#pragma unroll
      for (int j = 0; j < kTaps - 1; ++j) rows[j] = continues ? state[j * channels] : 0;
      rows[kTaps - 1] = x;
#pragma unroll
      for (int j = 0; j < kTaps; ++j) sum = fmaf(w[j], rows[j], sum);
      if (state != nullptr)
#pragma unroll
        for (int j = 0; j < kTaps - 1; ++j) state[j * channels] = rows[j + 1];
    } else {
#pragma unroll 1
      for (Index j = 0; j < taps; ++j) {
        const float seen = j + 1 == taps ? x : continues ? state[j * channels] : 0;
        sum = fmaf(op.w.row<float>(e)[j], seen, sum);
        if (state != nullptr && j > 0) state[(j - 1) * channels] = seen;
      }
    }
    return sum * sigmoid_of<T>(sum);
  }
};

}  // namespace
}  // namespace samba
