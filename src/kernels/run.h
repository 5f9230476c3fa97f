#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "core/aggregate.h"
#include "core/error.h"
#include "core/matrix.h"
#include "core/profile.h"
#include "core/stream.h"
#include "kernels/comparison.h"

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

/// Calls f(matrix, inside) for each matrix of an op and of the ops inside it.
template <class Op, class F>
void for_each_matrix(Op& op, const F& f, bool inside = false) {
  for_each_member(op, [&](auto& member) {
    using Member = std::remove_cvref_t<decltype(member)>;
    if constexpr (std::is_same_v<Member, View> || std::is_same_v<Member, ConstView>)
      f(member, inside);
    else if constexpr (requires { Member::kName; })
      for_each_matrix(member, f, /*inside=*/true);
  });
}

/// Runs an op by `run_on_device`, and from copies of what it reads and writes on the stream's
/// processor, and compares what both have written: Comparison. What an op inside writes for the
/// others to read is left out, for a device may do without.
template <class Op, class F>
void run_compared(Stream& stream, const Op& op, const F& run_on_device) {
  Comparison comparison(stream);
  Op copy = op;
  std::vector<const std::byte*> read;
  for_each_matrix(copy, [&]<class M>(M& matrix, bool /*inside*/) {
    if constexpr (std::is_same_v<M, ConstView>) read.push_back(matrix.data);
    matrix = comparison.copy_of(matrix);
  });
  run(stream.host(), copy);
  run_on_device();
  for_each_matrix(op, [&]<class M>(const M& matrix, bool inside) {
    if constexpr (std::is_same_v<M, View>)
      if (!inside || std::find(read.begin(), read.end(), matrix.data) == read.end())
        comparison.expect_equal(Op::kName, op.dtype(), matrix);
  });
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
      const auto run_on_device = [&] {
        run_on(*stream.cuda(), op);
        finish(*stream.cuda(), Op::kName);
      };
      if (stream.compares_ops()) return run_compared(stream, op, run_on_device);
      return run_on_device();
    }
  }
  if (stream.rehearses()) return op.check();
  run(stream.host(), op);
}

}  // namespace samba
