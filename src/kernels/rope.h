#pragma once

#include "core/matrix.h"
#include "core/stream.h"
#include "kernels/batch.h"

namespace samba::op {

/// Rotary position embedding, in place, half-split pairing: with a = position * base^(-2i / K),
///   x[i], x[i + K/2] = x[i] cos a - x[i + K/2] sin a,  x[i] sin a + x[i + K/2] cos a
/// Su et al. 2021, "RoFormer", section 3.4.2. Angles are formed in double, so positions far beyond
/// 2^24 stay exact; the rotation of a position does not depend on the span it comes in.
struct Rope {
  static constexpr const char* kName = "rope";

  View x;  ///< [N, heads * K] in and out
  Index heads;
  double base;           ///< 10000 in the paper
  bool inverse = false;  ///< rotate back: the gradient of the rotation
  Index group = 1;       ///< neighbours that share a position:
  Index shift = 0;       ///< a token at p stands at floor(p / group) + shift
  Batch batch;

  DType dtype() const { return x.dtype; }
  void check() const;
};

}  // namespace samba::op

namespace samba {
template <Tier>
void run_on(CpuStream&, const op::Rope&);
void run_on(CudaStream&, const op::Rope&);
}  // namespace samba
