#include <omp.h>

#include <algorithm>
#include <cmath>

#include "core/rng.h"
#include "model/model.h"

namespace samba {
namespace {

double draw(const Init& init, const Rng& rng, Index row_element, std::uint64_t index) {
  switch (init.kind) {
    case Init::Kind::zeros: return 0;
    case Init::Kind::ones: return 1;
    case Init::Kind::uniform: return init.scale * (2 * rng.uniform(index) - 1);
    case Init::Kind::normal: return init.scale * rng.normal(index);
    case Init::Kind::log_steps: return std::log(static_cast<double>(row_element + 1));
    case Init::Kind::time_step: {
      constexpr double kLeast = 1e-3, kMost = 1e-1, kFloor = 1e-4;
      const double exponent =
          rng.uniform(index) * (std::log(kMost) - std::log(kLeast)) + std::log(kLeast);
      const double step = std::max(std::exp(exponent), kFloor);
      return step + std::log(-std::expm1(-step));  // softplus of this is `step`
    }
  }
  return 0;
}

}  // namespace

void initialise(Model& model, std::uint64_t seed, const Destination& destination) {
  std::uint32_t number = 0;
  for (Parameter& p : model.parameters()) {
    const Rng rng{seed, number++};
    const int threads = model.stream().threads();
    const Matrix drawn(model.stream().host(), DType::f64, threads, p.cols);
    const View to = destination(p);
    const Matrix values(model.stream().host(), to.dtype, p.rows, p.cols);
#pragma omp parallel for num_threads(threads)
    for (Index r = 0; r < p.rows; ++r) {
      const View row = drawn.view().block(omp_get_thread_num(), 1);
      for (Index c = 0; c < p.cols; ++c)
        row.row<double>(0)[c] = draw(p.init, rng, c, static_cast<std::uint64_t>(r * p.cols + c));
      copy(values.view().block(r, 1), row);
    }
    copy(model.stream(), to, values);
  }
}

}  // namespace samba
