#pragma once

#include "core/matrix.h"
#include "core/stream.h"
#include "kernels/batch.h"

namespace samba::op {

/// The shape of an attention: query head h reads key-value head h / (heads / kv_heads).
struct Heads {
  Index heads;                ///< H
  Index kv_heads;             ///< G, divides H
  Index width;                ///< K, of a query and of a key
  Index value_width = width;  ///< V, of a value and of a result
};

/// Causal attention of each span over its sequence:
///   y_i = sum_j softmax_j(scale q_i . k_j) v_j     over j with max(0, i - window + 1) <= j <= i
/// so `window` keys, the query's own among them. `chunked`, windows do not slide but lie end to
/// end:
///   over j with floor(i / window) window <= j <= i
/// Ainslie et al. 2023, "GQA"; Beltagy et al. 2020, "Longformer", section 3.1 (the window); Ma et
/// al. 2022, "Mega", section 3.5 (chunks).
///
/// A sequence's state is a ring of its last keys and one of its last values: those of position p
/// stand in row p % capacity of its slot, capacity = key_state.cols / (G K) >= window. A span
/// attends to its ring and its own rows, then leaves its own last rows in the ring. Chunked, what
/// the ring holds of the chunks before is not read.
struct Attention {
  static constexpr const char* kName = "attention";

  View y;         ///< [N, H * V] out
  View lse = {};  ///< [N, H] out, f32 (f64 for f64): log sum exp of the scaled scores, for backward
  ConstView q;    ///< [N, H * K]
  ConstView k;    ///< [N, G * K]
  ConstView v;    ///< [N, G * V]
  Heads heads;
  Index window;  ///< at least 1; full attention: a window as long as the longest context
  bool chunked = false;
  double scale;  ///< K^-1/2 in the paper
  Batch batch;
  View key_state = {};    ///< [slots, capacity * G * K] in and out, dtype of k; may be left out
  View value_state = {};  ///< [slots, capacity * G * V], the same for v

  DType dtype() const { return q.dtype; }
  void check() const;
};

/// Gradients of Attention, overwritten, for spans without a slot. dq, dk and dv must not be q, k,
/// v.
struct AttentionBackward {
  static constexpr const char* kName = "attention_backward";

  View dq;        ///< [N, H * K]
  View dk;        ///< [N, G * K]
  View dv;        ///< [N, G * V]
  ConstView dy;   ///< [N, H * V]
  ConstView y;    ///< [N, H * V], of the forward op
  ConstView lse;  ///< [N, H], of the forward op
  ConstView q;    ///< [N, H * K]
  ConstView k;    ///< [N, G * K]
  ConstView v;    ///< [N, G * V]
  Heads heads;
  Index window;
  bool chunked = false;
  double scale;
  Batch batch;

  DType dtype() const { return q.dtype; }
  void check() const;
};

}  // namespace samba::op

namespace samba {
template <Tier>
void run_on(CpuStream&, const op::Attention&);
void run_on(CudaStream&, const op::Attention&);
template <Tier>
void run_on(CpuStream&, const op::AttentionBackward&);
void run_on(CudaStream&, const op::AttentionBackward&);
}  // namespace samba
