#pragma once

#include <cuda_bf16.h>

#include <cstdint>

// Tensor-core products of a warp and copies into shared memory, from sm_80 on. NVIDIA, PTX ISA,
// sections 9.7.9.25 (cp.async) and 9.7.14.5 (mma, ldmatrix).
namespace samba {

/// Two floats as bf16, the first in the lower half.
__device__ inline std::uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&pair);
}

/// Copies 16 bytes to shared memory in the background, zeros where `there` is false; both addresses
/// are multiples of 16.
__device__ inline void copy_async(void* to, const void* from, bool there) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<std::uint32_t>(__cvta_generic_to_shared(to))),
               "l"(__cvta_generic_to_global(from)), "r"(there ? 16 : 0)
               : "memory");
}
__device__ inline void copy_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
/// Waits until at most `pending` of this thread's groups are unfinished.
template <int pending>
__device__ inline void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

/// Four 8 x 8 blocks of bf16; lane l names row l % 8 of block l / 8, 16 bytes of shared memory.
/// Lane l receives of each block the elements 2 (l % 4) and the next of row l / 4.
__device__ inline void load_blocks(std::uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}
/// The same of the transposed blocks.
__device__ inline void load_blocks_transposed(std::uint32_t (&to)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
/// The way back, of blocks that lie in registers as load_blocks() leaves them; `row` is an address
/// of shared memory.
__device__ inline void store_blocks(std::uint32_t row, const std::uint32_t (&from)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row),
               "r"(from[0]), "r"(from[1]), "r"(from[2]), "r"(from[3])
               : "memory");
}
__device__ inline void store_blocks(void* row, const std::uint32_t (&from)[4]) {
  store_blocks(static_cast<std::uint32_t>(__cvta_generic_to_shared(row)), from);
}
#endif

/// d[16, 8] += A[16, 16] B[8, 16]^T. With r = lane / 4 and c = lane % 4 * 2 a lane holds
///   d[0], d[1] of row r, columns c and c + 1; d[2], d[3] of row r + 8
///   a[0] of row r, a[1] of row r + 8, columns c, c + 1; a[2], a[3] the same, 8 columns on
///   b0 of row r, columns c, c + 1; b1 the same, 8 columns on
__device__ inline void multiply_add(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                    std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace samba
