#pragma once

#include "core/matrix.h"
#include "core/stream.h"
#include "kernels/batch.h"

namespace samba::op {

/// Causal linear attention whose state decays. For each head, from S = 0 on,
///   S_t = diag(a_t) S_{t-1} + k_t v_tᵀ      [K, V]
///   y_t = scale q_tᵀ S_t
/// With `gate` the decay is a_t = sigmoid(gate_t)^(1 / kGateDivisor), channel by channel: Yang et
/// al. 2023, "Gated Linear Attention", eq. 3 and section 4.4. Without it the channels of head h
/// share the constant 1 - 2^(-5 - h): Sun et al. 2023, "Retentive Network", eq. 8. A decay below
/// 2^-40 (2^-400 in f64) counts as that.
///
/// Sequences are worked through in chunks, inside which the recurrence is products of matrices; in
/// f64 token by token, so that where a sequence is cut shows in no bit.
///
/// A sequence's state is S, [H, K, V].
struct LinearAttention {
  static constexpr const char* kName = "linear_attention";
  static constexpr Index kGateDivisor = 16;

  View y;               ///< [N, H V] out
  ConstView q;          ///< [N, H K]
  ConstView k;          ///< [N, H K]
  ConstView v;          ///< [N, H V]
  ConstView gate = {};  ///< [N, H K], before the sigmoid; may be left out
  Index heads;          ///< H
  double scale;         ///< K^-1/2 in the papers
  Batch batch;
  View state = {};  ///< [slots, H K V] in and out, f32 (f64 for f64); may be left out

  DType dtype() const { return y.dtype; }
  void check() const;
};

/// Gradients of LinearAttention, overwritten, for spans without a slot.
struct LinearAttentionBackward {
  static constexpr const char* kName = "linear_attention_backward";

  View dq;          ///< [N, H K]
  View dk;          ///< [N, H K]
  View dv;          ///< [N, H V]
  View dgate = {};  ///< [N, H K]; left out with the gate
  ConstView dy;     ///< [N, H V]
  ConstView q;      ///< [N, H K]
  ConstView k;      ///< [N, H K]
  ConstView v;      ///< [N, H V]
  ConstView gate = {};
  Index heads;
  double scale;
  Batch batch;

  DType dtype() const { return dy.dtype; }
  void check() const;
};

}  // namespace samba::op

namespace samba {
template <Tier>
void run_on(CpuStream&, const op::LinearAttention&);
void run_on(CudaStream&, const op::LinearAttention&);
template <Tier>
void run_on(CpuStream&, const op::LinearAttentionBackward&);
void run_on(CudaStream&, const op::LinearAttentionBackward&);
}  // namespace samba
