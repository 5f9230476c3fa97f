#include "kernels/sum.h"

#include "kernels/cpu/tier.h"

namespace samba {

template <Tier>
void run_on(CpuStream&, const op::Sum& op) {
  double sum = 0;
  visit_float(op.dtype(), [&]<class T>() {
    for (Index i = 0; i < op.x.rows; ++i) sum += get(*op.x.row<T>(i));
  });
  *op.sum.row<double>(0) += sum;
}

template void run_on<kTier>(CpuStream&, const op::Sum&);

}  // namespace samba
