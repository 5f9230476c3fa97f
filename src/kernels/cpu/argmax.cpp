#include "kernels/argmax.h"

#include <limits>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/tier.h"

namespace samba {

template <Tier>
void run_on(CpuStream& stream, const op::Argmax& op) {
  const auto work = [&]<class T>() {
    parallel_rows(stream, op.x.rows, op.x.cols, [&](Index first, Index last) {
      for (Index n = first; n < last; ++n) {
        const T* x = op.x.row<T>(n);
        Index best = 0;
        T most = -std::numeric_limits<T>::infinity();
        for (Index i = 0; i < op.x.cols; ++i)
          if (x[i] > most) most = x[i], best = i;
        *op.y.row<std::int32_t>(n) = static_cast<std::int32_t>(best);
      }
    });
  };
  op.x.dtype == DType::f64 ? work.template operator()<double>() : work.template operator()<float>();
}

template void run_on<kTier>(CpuStream&, const op::Argmax&);

}  // namespace samba
