#pragma once

#include <gtest/gtest.h>

#include <iosfwd>
#include <string>
#include <vector>

#include "core/stream.h"

namespace samba::test {

/// A tier, or a GPU beside it, and an element type; every kernel test runs over all that this
/// machine has.
struct Target {
  Tier tier;
  DType dtype;
  bool cuda = false;

  /// A GPU's stream keeps its matrices where tests can read them (CudaMemory::host).
  Stream stream(int threads = 2) const;
};

/// plain f64, then f32 and bf16 on every tier of this machine, then in a build with CUDA on a GPU.
std::vector<Target> targets();
/// "avx2_bf16", "cuda_f32"
std::string name_of(const Target&);
void PrintTo(const Target&, std::ostream*);
std::string name_of_target(const testing::TestParamInfo<Target>& info);

/// Ends the test as skipped where it needs a GPU and there is none.
#define SAMBA_SKIP_WITHOUT_GPU(target) \
  if ((target).cuda && cuda_devices() == 0) GTEST_SKIP() << "no NVIDIA GPU on this machine"

}  // namespace samba::test
