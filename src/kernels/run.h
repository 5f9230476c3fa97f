#pragma once

#include "core/matrix.h"
#include "core/profile.h"
#include "core/stream.h"

namespace samba {

/// The one door to every kernel: checks the shapes that the op promises, then calls the kernel
/// that was compiled for the stream's tier. f64 exists in the plain tier only.
///
/// Beside each op stands `template <Tier> void run_on(CpuStream&, const Op&)`. Every source file of
/// kernels/cpu is compiled once per tier and instantiates it for that tier.
template <class Op>
void run(CpuStream& stream, const Op& op) {
  op.check();
  const Profile range(Op::kName);
  const Tier tier = op.dtype() == DType::f64 ? Tier::plain : stream.tier();
  switch (tier) {
#if defined(__x86_64__)
    case Tier::avx512bf16: return run_on<Tier::avx512bf16>(stream, op);
    case Tier::avx512: return run_on<Tier::avx512>(stream, op);
    case Tier::avx2: return run_on<Tier::avx2>(stream, op);
#endif
    default: return run_on<Tier::plain>(stream, op);
  }
}

}  // namespace samba
