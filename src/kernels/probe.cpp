#include "kernels/probe.h"

#include <algorithm>
#include <chrono>

#include "kernels/linear.h"
#include "kernels/run.h"

namespace samba {

double gemm_flops(Stream& stream, DType dtype) {
  using Clock = std::chrono::steady_clock;
  constexpr Index kSize = 1024;  // large enough for full speed, small enough for a few rounds
  Matrix x(stream, dtype, kSize, kSize), w(stream, dtype, kSize, kSize), y(stream, dtype, kSize, kSize);
  fill(x, 0.5);
  fill(w, 0.25);
  double best = 0;
  const auto start = Clock::now();
  for (int round = 0; round < 3 || Clock::now() - start < std::chrono::milliseconds(100); ++round) {
    const auto before = Clock::now();
    run(stream, op::Linear{.y = y, .x = x, .w = w});
    const std::chrono::duration<double> seconds = Clock::now() - before;
    best = std::max(best, 2.0 * kSize * kSize * kSize / seconds.count());
  }
  return best;
}

}  // namespace samba
