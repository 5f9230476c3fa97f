#pragma once

#include "core/matrix.h"
#include "core/stream.h"

namespace samba::op {

/// loss[n] = log sum_v exp(logits[n, v]) - logits[n, targets[n]] in nats; 0 where the target is -1.
/// With `dlogits` also its gradient: dlogits = scale * (softmax(logits) - onehot(target)), 0 where
/// the target is -1. A target that is no column of logits: on the CPU an Error names the first; on
/// a GPU, whose targets the machine does not see, its row of loss and dlogits becomes NaN.
struct CrossEntropy {
  static constexpr const char* kName = "cross_entropy";

  View loss;  ///< [N, 1] out, f32 (f64 for f64), dtype of logits
  View dlogits =
      {};  ///< [N, V] out, the model's dtype; may be left out; may be logits where dtypes agree
  ConstView logits;   ///< [N, V] f32 (f64 for f64)
  ConstView targets;  ///< [N, 1] i32
  double scale = 1;

  DType dtype() const { return logits.dtype; }
  void check() const;
  void check_targets() const;  ///< reads them: for the CPU
};

}  // namespace samba::op

namespace samba {
template <Tier>
void run_on(CpuStream&, const op::CrossEntropy&);
void run_on(CudaStream&, const op::CrossEntropy&);
}  // namespace samba
