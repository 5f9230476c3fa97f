#include <algorithm>

#include "kernels/cuda/attention_decode.cuh"
#include "kernels/cuda/reduce.cuh"
#include "kernels/cuda/vector.cuh"

// One query of each head against chunks of a ring, for any type and width: a block works on a chunk
// as a whole.
namespace samba::attention {
namespace {

constexpr int kStep = 64;  ///< keys at a time

/// The block whose chunk holds the token's own row writes it to the ring; nobody reads it there.
template <class T>
__device__ void leave_rows(const op::Attention& op, const Chunk& chunk) {
  if (!chunk.leaves) return;
  const auto leave = [&](const View& state, const ConstView& from, Index width) {
    const T* source = from.row<T>(chunk.token) + chunk.kv_head * width;
    T* to = state.row<T>(chunk.slot) + chunk.sight.last * from.cols + chunk.kv_head * width;
    for (Index i = threadIdx.x; i < width; i += kThreads) to[i] = source[i];
  };
  leave(op.key_state, op.k, op.heads.width);
  leave(op.value_state, op.v, op.heads.value_width);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    decode_generally(const op::Attention op, const Cut cut, const Partials partials) {
  extern __shared__ float floats[];
  let_next_begin();
  wait_for_previous();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int width = static_cast<int>(op.heads.width),
            value_width = static_cast<int>(op.heads.value_width);
  float* queries = floats;                          // [heads, K]
  float* sums = queries + cut.heads * width;        // [heads, V]
  float* weights = sums + cut.heads * value_width;  // [heads, kStep]
  float* factors = weights + cut.heads * kStep;     // [heads]
  float* largest = factors + cut.heads;             // [heads]
  float* totals = largest + cut.heads;              // [heads]
  for (int number = static_cast<int>(blockIdx.x);; number += static_cast<int>(gridDim.x)) {
    const Chunk chunk(op, cut, number);
    if (chunk.span < 0) return;
    const int heads = chunk.heads, end = chunk.end, last = chunk.sight.last;
    const Index head = chunk.head;
    for (int i = threadIdx.x; i < heads * width; i += kThreads)
      queries[i] = to_float(op.q.row<T>(chunk.token)[head * width + i]);
    for (int i = threadIdx.x; i < heads * value_width; i += kThreads) sums[i] = 0;
    for (int i = threadIdx.x; i < heads; i += kThreads) {
      largest[i] = kNothing;
      totals[i] = 0;
    }
    const auto row = [&](const ConstView& own, const ConstView& ring, int place) {
      return place == last ? own.row<T>(chunk.token) : ring.row<T>(chunk.slot) + place * own.cols;
    };
    __syncthreads();
    for (int base = chunk.begin; base < end; base += kStep) {
      const int keys = min(kStep, end - base);
      for (int j = warp; j < keys; j += kWarps) {
        if (!chunk.sees(base + j)) {
          for (int h = lane; h < heads; h += 32) weights[h * kStep + j] = kNothing;
          continue;
        }
        const T* key = row(op.k, op.key_state, base + j) + chunk.kv_head * width;
        for (int h = 0; h < heads; ++h) {
          float sum = 0;
          for (int d = lane; d < width; d += 32) sum += queries[h * width + d] * to_float(key[d]);
          sum = warp_sum(sum);
          if (lane == 0) weights[h * kStep + j] = sum;
        }
      }
      __syncthreads();
      for (int h = warp; h < heads; h += kWarps) {
        float* w = weights + h * kStep;
        float most = kNothing, sum = 0;
        for (int j = lane; j < keys; j += 32) most = fmaxf(most, w[j]);
        most = fmaxf(warp_max(most), largest[h]);
        for (int j = lane; j < keys; j += 32) {
          w[j] = w[j] > kNothing ? exp2f((w[j] - most) * cut.scale) : 0.0f;
          sum += w[j];
        }
        sum = warp_sum(sum);
        __syncwarp();
        if (lane == 0) {
          factors[h] = exp2f((largest[h] - most) * cut.scale);
          totals[h] = totals[h] * factors[h] + sum;
          largest[h] = most;
        }
      }
      __syncthreads();
      constexpr int kAtOnce = 4;
      for (int d = threadIdx.x; d < value_width; d += kThreads)
        for (int h = 0; h < heads; h += kAtOnce) {
          float sum[kAtOnce] = {};
          const int count = min(kAtOnce, heads - h);
          for (int j = 0; j < keys; ++j) {
            if (!chunk.sees(base + j)) continue;
            const float value =
                to_float(row(op.v, op.value_state, base + j)[chunk.kv_head * value_width + d]);
#pragma unroll
            for (int i = 0; i < kAtOnce; ++i)
              if (i < count) sum[i] += weights[(h + i) * kStep + j] * value;
          }
#pragma unroll
          for (int i = 0; i < kAtOnce; ++i)
            if (i < count) {
              float& to = sums[(h + i) * value_width + d];
              to = to * factors[h + i] + sum[i];
            }
        }
      __syncthreads();
    }
    const Index to = (Index{chunk.span} * cut.chunks + chunk.index) * op.heads.heads + head;
    for (int i = threadIdx.x; i < heads * value_width; i += kThreads)
      partials.sums[to * value_width + i] = sums[i];
    for (int i = threadIdx.x; i < heads; i += kThreads)
      partials.totals[to + i] = make_float2(largest[i] * cut.scale, totals[i]);
    leave_rows<T>(op, chunk);
    __syncthreads();
  }
}

/// Bytes of shared memory.
std::size_t shared_of(const op::Attention& op, int heads) {
  const Index width = op.heads.width + op.heads.value_width;
  return sizeof(float) * static_cast<std::size_t>(heads * (width + kStep + 3));
}

}  // namespace

int heads_of_general_block(const op::Attention& op) {
  constexpr std::size_t kShared = 64 << 10;
  const Index group = op.heads.heads / op.heads.kv_heads;
  int heads = 16;
  while (heads > 1 && (shared_of(op, heads) > kShared || heads / 2 >= group)) heads /= 2;
  return heads;
}

void attend_chunks_generally(CudaStream& stream, const op::Attention& op, const Cut& cut,
                             const Partials& partials) {
  visit_float(op.dtype(), [&]<class T>() {
    launch_early(stream, decode_generally<T>, grid_of(stream, op, cut, 8), kThreads,
                 shared_of(op, cut.heads), op, cut, partials);
  });
}

}  // namespace samba::attention
