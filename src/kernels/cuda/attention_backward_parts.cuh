#pragma once

#include <span>

#include "kernels/cuda/attention_parts.cuh"

// What the kernels of attention's gradients share. Rows of a span are counted from its first;
// spans have no ring, so that position counts only where windows are chunks.
//
// With p = exp(scale q . k - lse) and delta = dy . y of a query:
//   dv_j = sum_i p_ij dy_i
//   ds_ij = p_ij (dy_i . v_j - delta_i)
//   dk_j = scale sum_i ds_ij q_i
//   dq_i = scale sum_j ds_ij k_j
// Dao et al. 2022, "FlashAttention", appendix B.2 and algorithm 4.
namespace samba::attention {

/// The first of a span's rows whose key the query of row `query` sees; the span begins at
/// `position`.
__host__ __device__ inline Index first_seen(const op::AttentionBackward& op, Index position,
                                            Index query) {
  const Index first =
      op.chunked ? (position + query) / op.window * op.window - position : query - op.window + 1;
  return first > 0 ? first : 0;
}

/// The last of a span's rows, or beyond it, whose query sees the key of row `key`.
__host__ __device__ inline Index last_seeing(const op::AttentionBackward& op, Index position,
                                             Index key) {
  return op.chunked ? ((position + key) / op.window + 1) * op.window - 1 - position
                    : key + op.window - 1;
}

enum class Gradient { dq, dk, dv };

/// delta [N, H] in f32.
Matrix dots(CudaStream&, const op::AttentionBackward&);

/// The gradients of any float type and any width. op.batch.spans are the device's, `spans` the
/// host's; no window is longer than the greatest position plus 1.
void differentiate_generally(CudaStream&, const op::AttentionBackward&, std::span<const Span>);

/// The same on the tensor cores of any GPU: bf16, widths that are multiples of 8, rows at multiples
/// of 16 bytes. False, and nothing is done, where they cannot.
bool differentiate_on_tensor_cores(CudaStream&, const op::AttentionBackward&,
                                   std::span<const Span>);

/// The same where Hopper's tensor cores can: bf16, heads of 64 or 128 columns, rows at multiples of
/// 16 bytes. False, and nothing is done, where they cannot.
bool differentiate_on_hopper(CudaStream&, const op::AttentionBackward&, std::span<const Span>);

}  // namespace samba::attention
