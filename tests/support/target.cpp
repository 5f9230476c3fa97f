#include "support/target.h"

#include <ostream>

namespace samba::test {

std::vector<Target> targets() {
  std::vector<Target> all{{Tier::plain, DType::f64}};
  for (const Tier tier : kTiers)
    if (machine_has(tier))
      for (const DType dtype : {DType::f32, DType::bf16}) all.push_back({tier, dtype});
  if (built_with_cuda())
    for (const DType dtype : {DType::f32, DType::bf16}) all.push_back({best_tier(), dtype, true});
  return all;
}

Stream Target::stream(int threads) const {
  const CpuStream host(threads, tier);
  return cuda ? Stream(host, 0, CudaMemory::host) : Stream(host);
}

std::string name_of(const Target& target) {
  return std::string(target.cuda ? "cuda" : name_of(target.tier)) + "_" + name_of(target.dtype);
}

void PrintTo(const Target& target, std::ostream* out) {
  *out << name_of(target);
}

std::string name_of_target(const testing::TestParamInfo<Target>& info) {
  return name_of(info.param);
}

}  // namespace samba::test
