#pragma once

#include "core/matrix.h"
#include "core/stream.h"

namespace samba::op {

/// Joins two attentions over different keys of the same queries into the one over both:
///   y = (e^lse y + e^other_lse other) / (e^lse + e^other_lse)      head by head
/// Dao et al. 2022, "FlashAttention", section 3.1 (sums of blocks).
struct AttentionMerge {
  static constexpr const char* kName = "attention_merge";

  View y;               ///< [N, H V] in and out
  ConstView lse;        ///< [N, H] f32 (f64 for f64), as op::Attention writes it
  ConstView other;      ///< [N, H V] of y's dtype
  ConstView other_lse;  ///< [N, H] of lse's dtype

  DType dtype() const { return y.dtype; }
  void check() const;
};

}  // namespace samba::op

namespace samba {
template <Tier>
void run_on(CpuStream&, const op::AttentionMerge&);
void run_on(CudaStream&, const op::AttentionMerge&);
}  // namespace samba
