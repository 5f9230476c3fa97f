#pragma once

#include "core/matrix.h"
#include "core/stream.h"

namespace samba::op {

/// y[n] = w[tokens[n]]. An id that is not a row of w: on the CPU an Error names the first; on a
/// GPU, whose ids the machine does not see, its row of y becomes NaN.
struct Embedding {
  static constexpr const char* kName = "embedding";

  View y;            ///< [N, D] out, f32 (f64 for f64): the residual stream
  ConstView tokens;  ///< [N, 1] i32
  ConstView w;       ///< [V, D]

  DType dtype() const { return w.dtype; }
  void check() const;
  void check_tokens() const;  ///< reads them: for the CPU
};

/// dw[tokens[n]] += dy[n], in the order of n. An id that is not a row of dw is an Error on the CPU
/// and passed over on a GPU.
struct EmbeddingBackward {
  static constexpr const char* kName = "embedding_backward";

  View dw;           ///< [V, D] f32 (f64 for f64)
  ConstView dy;      ///< [N, D] of dw's dtype
  ConstView tokens;  ///< [N, 1] i32

  DType dtype() const { return dw.dtype; }
  void check() const;
  void check_tokens() const;
};

}  // namespace samba::op

namespace samba {
template <Tier>
void run_on(CpuStream&, const op::Embedding&);
void run_on(CudaStream&, const op::Embedding&);
template <Tier>
void run_on(CpuStream&, const op::EmbeddingBackward&);
void run_on(CudaStream&, const op::EmbeddingBackward&);
}  // namespace samba
