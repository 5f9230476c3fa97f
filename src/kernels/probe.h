#pragma once

#include "core/stream.h"

/// What this machine can do at this moment, to divide measured rates by. Shared machines change
/// within minutes: probe beside what is measured. Every probe takes about 50 ms, uses the stream's
/// threads and returns the best of several runs.
namespace samba {

/// f32 multiplications and additions per second, in registers.
double probe_f32(const Stream&);
/// bf16 multiplications and additions per second (VDPBF16PS); the f32 rate on tiers without it.
double probe_bf16(const Stream&);
/// The one of the two that kernels of this dtype are bound by; on a GPU gemm_flops.
double probe_flops(Stream&, DType);
/// Bytes read per second from memory, beyond all caches; on a GPU read and written by a copy.
double probe_read(Stream&);
/// Operations per second of op::Linear with 1024 x 1024 matrices of this dtype, on a GPU 8192 x
/// 8192. Takes up to 0.3 s.
double gemm_flops(Stream&, DType);
/// 2^x per second in f32 from and to arrays in the first cache: range reduction, a polynomial of
/// degree 5, exponent.
double probe_exp2(const Stream&);

}  // namespace samba
