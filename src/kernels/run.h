#pragma once

#include "core/error.h"
#include "core/matrix.h"
#include "core/profile.h"
#include "core/stream.h"

namespace samba {

/// Whether the program has a CUDA half. Only this file asks: the others are compiled once for both
/// kinds of build (and kept by ccache).
constexpr bool kCuda = SAMBA_CUDA;

/// The processor's half of the door: calls the kernel that was compiled for the stream's tier. f64
/// exists in the plain tier only.
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

/// The one door to every kernel: checks the shapes that the op promises, then calls it on the
/// stream's device. On a GPU that queues it: `void run_on(CudaStream&, const Op&)`, declared beside
/// each op, is in kernels/cuda. There f64 does not exist.
template <class Op>
void run(Stream& stream, const Op& op) {
  if constexpr (kCuda) {
    if (stream.cuda() != nullptr) {
      op.check();
      if (op.dtype() == DType::f64) fail(Op::kName, ": f64 exists on the CPU only");
      const Profile range(Op::kName);
      run_on(*stream.cuda(), op);
      return finish(*stream.cuda(), Op::kName);
    }
  }
  if (stream.rehearses()) return op.check();
  run(stream.host(), op);
}

}  // namespace samba
