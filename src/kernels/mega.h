#pragma once

#include "core/matrix.h"
#include "core/stream.h"

// The elementwise parts of Mega. Ma et al. 2022, "Mega: Moving Average Equipped Gated Attention",
// section 3.2; with S6 in place of the moving average: Ren et al. 2024, "Samba".

namespace samba::op {

/// Queries and keys of one shared representation z, and behind each of them what a rotation by the
/// position turns into a bias of the scores that depends on the distance alone:
///   q = [silu(z) gamma_0 + beta, bias_0 / scale]      k = [silu(z) gamma_1, bias_1]
/// With both right halves rotated (op::Rope), scale q_m . k_n is the score of the left halves plus
/// rot_m(bias_0) . rot_n(bias_1). The paper adds a vector to k too: all scores of a query would
/// move by the same number, which softmax does not see, but of which rounding makes gradients.
struct MegaQueryKey {
  static constexpr const char* kName = "mega_query_key";

  View q;           ///< [N, 2Z] out
  View k;           ///< [N, 2Z] out
  ConstView z;      ///< [N, Z] of q's dtype
  ConstView gamma;  ///< [2, Z] f32 (f64 for f64), like beta and bias
  ConstView beta;   ///< [1, Z]
  ConstView bias;   ///< [2, Z]
  double scale;     ///< of the scores, more than 0

  DType dtype() const { return q.dtype; }
  void check() const;
};

/// Gradients of MegaQueryKey; dq and dk with their right halves rotated back. dz is overwritten,
/// the others are added to: sums over the rows in ascending order.
struct MegaQueryKeyBackward {
  static constexpr const char* kName = "mega_query_key_backward";

  View dz;          ///< [N, Z]
  View dgamma;      ///< [2, Z] f32 (f64 for f64), like dbeta and dbias
  View dbeta;       ///< [1, Z]
  View dbias;       ///< [2, Z]
  ConstView dq;     ///< [N, 2Z]
  ConstView dk;     ///< [N, 2Z]
  ConstView z;      ///< [N, Z]
  ConstView gamma;  ///< [2, Z]
  double scale;

  DType dtype() const { return dq.dtype; }
  void check() const;
};

/// What a gated residual adds to x, so that x + y goes from x to silu(h + hx) by the share u:
///   y = sigmoid(u) (silu(h + hx) - x)
struct MegaGate {
  static constexpr const char* kName = "mega_gate";

  View y;        ///< [N, D] out
  ConstView u;   ///< [N, D]
  ConstView h;   ///< [N, D]
  ConstView hx;  ///< [N, D]
  ConstView x;   ///< [N, D]; all of one dtype

  DType dtype() const { return y.dtype; }
  void check() const;
};

/// Gradients of MegaGate, overwritten; that of h is that of hx too.
struct MegaGateBackward {
  static constexpr const char* kName = "mega_gate_backward";

  View du;       ///< [N, D]
  View dh;       ///< [N, D]
  View dx;       ///< [N, D] f32 (f64 for f64), for more to be added
  ConstView dy;  ///< [N, D]
  ConstView u;
  ConstView h;
  ConstView hx;
  ConstView x;

  DType dtype() const { return dy.dtype; }
  void check() const;
};

}  // namespace samba::op

namespace samba {
template <Tier>
void run_on(CpuStream&, const op::MegaQueryKey&);
void run_on(CudaStream&, const op::MegaQueryKey&);
template <Tier>
void run_on(CpuStream&, const op::MegaQueryKeyBackward&);
void run_on(CudaStream&, const op::MegaQueryKeyBackward&);
template <Tier>
void run_on(CpuStream&, const op::MegaGate&);
void run_on(CudaStream&, const op::MegaGate&);
template <Tier>
void run_on(CpuStream&, const op::MegaGateBackward&);
void run_on(CudaStream&, const op::MegaGateBackward&);
}  // namespace samba
