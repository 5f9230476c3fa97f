#pragma once

#include "core/matrix.h"
#include "core/stream.h"
#include "kernels/causal_conv1d.h"
#include "kernels/rope.h"

namespace samba::op {

/// Rearranges a weight so that `Linear` streams it: panels of a few outputs, inside a panel their
/// values of input 0, then of input 1, ... (where the machine multiplies pairs of bf16: of inputs 0
/// and 1 interleaved, ...). The width of a panel, a divisor of kPanel, belongs to the tier that
/// wrote it. Outputs and inputs are padded with zeros.
struct PackLinear {
  static constexpr const char* kName = "pack_linear";
  static constexpr Index kPanel = 64;

  View panels;  ///< [panel_rows(O), panel_cols(I)] out, dtype of w
  ConstView w;  ///< [O, I]

  static constexpr Index panel_rows(Index outputs) { return (outputs + kPanel - 1) / kPanel; }
  static constexpr Index panel_cols(Index inputs) { return (inputs + 1) / 2 * 2 * kPanel; }
  DType dtype() const { return w.dtype; }
  void check() const;
};

/// y = x wᵀ + bias, or y += x wᵀ. With a norm the rows of x are those of the residual stream, and
/// are multiplied as op::RmsNorm leaves them, rounded to w's type. `gated`, w and bias hold those
/// of gates and behind them as many others, and y is what op::SwiGlu makes of both, rounded to w's
/// type. A rope rotates columns of y, a
/// convolution reads them.
///
/// Every element of y is one sum over the inputs in ascending order, kept in f32 (f64 for f64) and
/// rounded once, whatever N is, however the weight lies and however many threads work: a row's bits
/// do not depend on the other rows. The bias begins the sum, or with `add` y's old value. Where the
/// machine multiplies pairs of bf16, a term of the sum is a pair, and subnormal numbers count as 0.
struct Linear {
  static constexpr const char* kName = "linear";

  View y;                  ///< [N, O] out; dtype of w, or f32; gated [N, O / 2] of w's dtype
  ConstView x;             ///< [N, I] of w's dtype; with a norm f32 (f64 for f64)
  ConstView w;             ///< [O, I]; with `packed` what PackLinear wrote of it
  ConstView bias = {};     ///< [1, O] f32 (f64 for f64); may be left out, must be with `add`
  bool packed = false;     ///< w lies in panels
  bool add = false;        ///< add to y instead of overwriting it
  bool gated = false;      ///< not with `add`
  View product = {};       ///< [N, O] out, of w's dtype: gate and up side by side; may be left out
  ConstView norm = {};     ///< [1, I] f32 (f64 for f64), op::RmsNorm's w; may be left out
  double eps = 0;          ///< op::RmsNorm's
  Rope rope = {};          ///< run on y's first columns, its x, in the end; without x: not
  CausalConv1d conv = {};  ///< likewise

  DType dtype() const { return w.dtype; }
  Index outputs() const { return gated ? 2 * y.cols : y.cols; }  ///< O
  void check() const;
};

/// Gradients of Linear. dx is overwritten (added to with `add_dx`), dw and dbias are added to (dw
/// overwritten without `add_dw`). Each may be left out. In place of dx, the gradient of a gated
/// product can be asked for of which x was made, x = silu(gate) * up. That x is made `again`,
/// before dw, whose x it may be.
///
/// The sums are those of Linear: over the outputs in ascending order for dx, over the rows for dw
/// and dbias, beginning with the old value where they are added to. Rows given in several calls,
/// cut at even places, thus leave the same bits in dw and dbias as in one.
struct LinearBackward {
  static constexpr const char* kName = "linear_backward";

  View dx = {};      ///< [N, I]; dtype of dy, or f32
  View dw = {};      ///< [O, I] f32 (f64 for f64)
  View dbias = {};   ///< [1, O] f32 (f64 for f64)
  ConstView dy;      ///< [N, O]
  ConstView x = {};  ///< [N, I] of dy's dtype; needed for dw
  ConstView w = {};  ///< [O, I] of dy's dtype, not packed; needed for dx and product
  bool add_dx = false;
  bool add_dw = true;
  View product = {};  ///< [N, 2 I] gate and up of dy's dtype, becomes their gradient
  View again = {};    ///< [N, I] out, with `product`: silu(gate) * up of dy's dtype

  DType dtype() const { return dy.dtype; }
  void check() const;
};

}  // namespace samba::op

namespace samba {
template <Tier>
void run_on(CpuStream&, const op::PackLinear&);
void run_on(CudaStream&, const op::PackLinear&);
template <Tier>
void run_on(CpuStream&, const op::Linear&);
void run_on(CudaStream&, const op::Linear&);
template <Tier>
void run_on(CpuStream&, const op::LinearBackward&);
void run_on(CudaStream&, const op::LinearBackward&);
}  // namespace samba
