#pragma once

#include "core/matrix.h"
#include "core/stream.h"
#include "kernels/batch.h"
#include "kernels/linear.h"

namespace samba::op {

/// decay[n, e] = log2(e) A[e, n], A = -exp(a_log): what the scan makes of a_log each time, unless
/// it is given; for weights that stay as they are.
struct PackDecay {
  static constexpr const char* kName = "pack_decay";

  View decay;       ///< [S, E] out, dtype of a_log
  ConstView a_log;  ///< [E, S] f32 (f64 for f64)

  DType dtype() const { return a_log.dtype; }
  void check() const;
};

/// The selective state space recurrence, S6, along each span, with its gate:
///   delta_t = softplus(dt_t + dt_bias)                          [E]
///   h_t     = exp(delta_t A) h_{t-1} + delta_t u_t b_tᵀ         [E, S], A = -exp(a_log)
///   y_t     = (h_t c_t + d u_t) silu(z_t)                       [E]
/// Gu & Dao 2023, "Mamba", algorithm 2. Arithmetic and state are f32 (f64 for f64).
///
/// A sequence's state is h, state by state: element n * E + e is channel e's n-th, so that kernels
/// read and write neighbouring channels at once.
struct SelectiveScan {
  static constexpr const char* kName = "selective_scan";
  /// Backward takes the state at the start of each chunk of so many tokens, at most, and recomputes
  /// inside.
  static constexpr Index kChunk = 64;
  static constexpr Index kShortest = 16;

  View y;                ///< [N, E] out
  ConstView u;           ///< [N, E]
  ConstView dt;          ///< [N, E], before the bias and softplus
  ConstView b;           ///< [N, S]
  ConstView c;           ///< [N, S]
  ConstView z = {};      ///< [N, E]; without it there is no gate
  ConstView dt_bias;     ///< [1, E] f32 (f64 for f64), like a_log and d
  ConstView a_log = {};  ///< [E, S]; left out with decay
  ConstView decay = {};  ///< [S, E], what PackDecay made of a_log
  ConstView d;           ///< [1, E]
  Batch batch;
  View state = {};  ///< [slots, E * S] in and out, dtype of d; may be left out
  View h = {};  ///< [chunks(batch), E * S] out, like state: that before each chunk, for backward
  Index chunk = kChunk;  ///< tokens of one; a multiple of kShortest
  /// Run before, where it has a w: dt is its y, which without h may be left unwritten.
  Linear dt_from = {};

  /// The chunk that is fastest there: a GPU rather reads more states than it makes again.
  static Index chunk_on(const Stream&);
  /// Rows of h. Each span begins one, cut in chunks of which the last may be shorter, and some rows
  /// stay as they are.
  static Index chunks(const Batch& batch, Index chunk = kChunk) {
    return batch.tokens / chunk + batch.count;
  }
  /// The row of h of the first chunk of span i; those of its others follow. Found without counting
  /// the chunks of the spans before it: rows of two spans never meet, since for a span of l tokens
  /// from row f on, floor((f + l) / chunk) + 1 >= floor(f / chunk) + ceil(l / chunk).
  static constexpr Index chunk_row(const Span& span, Index i, Index chunk = kChunk) {
    return span.first / chunk + i;
  }
  DType dtype() const { return y.dtype; }
  void check() const;
};

/// Gradients of SelectiveScan for spans without a slot. du, ddt, db, dc and dz are overwritten;
/// ddt_bias, da_log and dd are added to.
struct SelectiveScanBackward {
  static constexpr const char* kName = "selective_scan_backward";

  View du;        ///< [N, E]
  View ddt;       ///< [N, E]
  View db;        ///< [N, S]
  View dc;        ///< [N, S]
  View dz = {};   ///< [N, E]; left out with z
  View ddt_bias;  ///< [1, E] f32 (f64 for f64), like da_log and dd
  View da_log;    ///< [E, S]
  View dd;        ///< [1, E]
  ConstView dy;   ///< [N, E]
  ConstView u;
  ConstView dt;
  ConstView b;
  ConstView c;
  ConstView z = {};
  ConstView dt_bias;
  ConstView a_log;
  ConstView d;
  ConstView h;  ///< [chunks(batch), E * S], of the forward op
  Batch batch;
  Index chunk = SelectiveScan::kChunk;  ///< of the forward op

  DType dtype() const { return dy.dtype; }
  void check() const;
};

}  // namespace samba::op

namespace samba {
template <Tier>
void run_on(CpuStream&, const op::PackDecay&);
void run_on(CudaStream&, const op::PackDecay&);
template <Tier>
void run_on(CpuStream&, const op::SelectiveScan&);
void run_on(CudaStream&, const op::SelectiveScan&);
template <Tier>
void run_on(CpuStream&, const op::SelectiveScanBackward&);
void run_on(CudaStream&, const op::SelectiveScanBackward&);
}  // namespace samba
