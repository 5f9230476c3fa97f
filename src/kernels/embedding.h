#pragma once

#include "core/matrix.h"
#include "core/stream.h"

namespace samba::op {

/// y[n] = w[tokens[n]]. Throws an Error naming the first id that is not a row of w.
struct Embedding {
  static constexpr const char* kName = "embedding";

  View y;            ///< [N, D] out, f32 (f64 for f64): the residual stream
  ConstView tokens;  ///< [N, 1] i32
  ConstView w;       ///< [V, D]

  DType dtype() const { return w.dtype; }
  void check() const;
};

/// dw[tokens[n]] += dy[n], in the order of n.
struct EmbeddingBackward {
  static constexpr const char* kName = "embedding_backward";

  View dw;           ///< [V, D] f32 (f64 for f64)
  ConstView dy;      ///< [N, D] of dw's dtype
  ConstView tokens;  ///< [N, 1] i32

  DType dtype() const { return dw.dtype; }
  void check() const;
};

}  // namespace samba::op

namespace samba {
template <Tier> void run_on(CpuStream&, const op::Embedding&);
template <Tier> void run_on(CpuStream&, const op::EmbeddingBackward&);
}  // namespace samba
