#pragma once

#include <cuda.h>
#include <cudaTypedefs.h>

#include <cstdint>

#include "core/cuda_stream.h"
#include "core/error.h"
#include "core/matrix.h"

// Hopper's own instructions, one small function each: barriers in shared memory (mbarrier), tensor
// copies (TMA) and products of a warpgroup (wgmma). NVIDIA, PTX ISA 8.x, sections 9.7.13 to 9.7.15.
//
// A warpgroup is 128 threads whose first is a multiple of 128. Kernels that call these are compiled
// for sm_90a alone: their bodies stand inside #if SAMBA_SM90A, empty elsewhere, and hosts choose
// them by stream.hopper().
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SAMBA_SM90A 1
#else
#define SAMBA_SM90A 0
#endif

namespace samba::hopper {

// ---- tensor maps, made by the host -----------------------------------------------------------

/// The driver's function that makes tensor maps: found at run time, so that nothing links to it.
inline PFN_cuTensorMapEncodeTiled_v12000 tensor_map_encoder() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found;
  cuda_check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                              cudaEnableDefault, &found));
  if (found != cudaDriverEntryPointSuccess) fail("cuda: the driver knows no tensor maps");
  return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function);
}

/// A map of bf16 [planes, rows, cols] with strides in elements, from which tensor_load takes
/// tiles of box_planes x box_rows x box_cols, as box_planes * box_rows rows swizzled by 128 bytes:
/// box_cols at most 128 bytes, the others at most 256. Elements beyond the edges are read as zeros
/// and not written. For a `const __grid_constant__ CUtensorMap` parameter. Needs can_map().
inline CUtensorMap tensor_map(const void* data, Index cols, Index rows, Index row_stride,
                              Index planes, Index plane_stride, int box_cols, int box_rows,
                              int box_planes = 1) {
  static const PFN_cuTensorMapEncodeTiled_v12000 encode = tensor_map_encoder();
  CUtensorMap map;
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(cols), static_cast<cuuint64_t>(rows),
                              static_cast<cuuint64_t>(planes)};
  const cuuint64_t strides[] = {static_cast<cuuint64_t>(row_stride * Index{sizeof(Bf16)}),
                                static_cast<cuuint64_t>(plane_stride * Index{sizeof(Bf16)})};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(box_cols), static_cast<cuuint32_t>(box_rows),
                            static_cast<cuuint32_t>(box_planes)};
  const cuuint32_t steps[] = {1, 1, 1};
  const CUresult result =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void*>(data), sizes, strides,
             box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    fail("cuda: no tensor map of ", rows, " rows of ", cols, " in steps of ", row_stride,
         " (CUresult ", static_cast<int>(result), ")");
  return map;
}

/// The map of a view as one plane.
inline CUtensorMap tensor_map(ConstView view, int box_cols, int box_rows) {
  return tensor_map(view.data, view.cols, view.rows, view.stride, 1, view.rows * view.stride,
                    box_cols, box_rows);
}

/// Whether a map of this view can be made: starts of rows at multiples of 16 bytes.
inline bool can_map(ConstView view) {
  return view.dtype == DType::bf16 && reinterpret_cast<std::uintptr_t>(view.data) % 16 == 0 &&
         view.stride % 8 == 0 && view.rows < (Index{1} << 31) && view.cols < (Index{1} << 31);
}

#if SAMBA_SM90A

/// The address that instructions of shared memory take.
__device__ inline std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

// ---- barriers in shared memory ---------------------------------------------------------------
// A barrier's phase ends when `count` arrivals and all expected bytes are there; waiting names the
// parity of the phase that is to end: 0 first, then 1, then 0 ...

__device__ inline void barrier_init(std::uint64_t* barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count)
               : "memory");
}
/// After the inits, before the __syncthreads() that shows them to others.
__device__ inline void barrier_init_done() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ inline void barrier_arrive(std::uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
               : "memory");
}
/// Arrives, and lets the phase wait for so many bytes of copies more.
__device__ inline void barrier_expect(std::uint64_t* barrier, int bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}
__device__ inline bool barrier_ended(std::uint64_t* barrier, int parity) {
  std::uint32_t ended;
  asm volatile(
      "{\n.reg .pred p;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      "selp.b32 %0, 1, 0, p;\n}"
      : "=r"(ended)
      : "r"(shared_address(barrier)), "r"(parity)
      : "memory");
  return ended != 0;
}
__device__ inline void barrier_wait(std::uint64_t* barrier, int parity) {
  while (!barrier_ended(barrier, parity)) {
  }
}

/// A place in a ring of `count` stages and the parity of its barriers' phase.
template <int count>
struct Ring {
  int at = 0;
  int parity = 0;
  __device__ void advance() {
    if (++at == count) {
      at = 0;
      parity ^= 1;
    }
  }
  __device__ void advance(int stages) {
    at += stages;
    parity ^= at / count % 2;
    at %= count;
  }
};

/// Waits for `threads` threads (a multiple of 32) at the hardware barrier `id`, 1 .. 15; 0 is
/// __syncthreads().
__device__ inline void named_barrier_wait(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
/// Counts among its threads without waiting.
__device__ inline void named_barrier_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/// Shared memory that this thread has written becomes visible to wgmma and bulk copies; before the
/// barrier behind which they start.
__device__ inline void fence_async_shared() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// ---- bulk copies -----------------------------------------------------------------------------

/// Copies the tile that begins at (col, row) of a plane to shared memory at a multiple of 1024
/// bytes: rows of 128 bytes, the 16-byte unit u of row r at place u ^ (r % 8). All its bytes, those
/// beyond the edges too, count at the barrier.
__device__ inline void tensor_load(void* to, const CUtensorMap& map, std::uint64_t* barrier,
                                   int col, int row, int plane = 0) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, "
      "{%3, %4, %5}], [%2];" ::"r"(shared_address(to)),
      "l"(reinterpret_cast<std::uint64_t>(&map)), "r"(shared_address(barrier)), "r"(col), "r"(row),
      "r"(plane)
      : "memory");
}
/// Copies a run of bytes; both addresses and the number are multiples of 16.
__device__ inline void bulk_load(void* to, const void* from, int bytes, std::uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
      "[%3];" ::"r"(shared_address(to)),
      "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
}

/// The same tile at the same place of every block of the cluster whose bit is set in `blocks`; the
/// bytes count at each one's own barrier.
__device__ inline void tensor_load_to_all(void* to, const CUtensorMap& map, std::uint64_t* barrier,
                                          int col, int row, std::uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%3, %4, %5}], [%2], %6;" ::"r"(shared_address(to)),
      "l"(reinterpret_cast<std::uint64_t>(&map)), "r"(shared_address(barrier)), "r"(col), "r"(row),
      "r"(0), "h"(blocks)
      : "memory");
}

// ---- clusters --------------------------------------------------------------------------------

/// All threads of the cluster, each of them once.
__device__ inline void cluster_wait() {
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
}
/// Arrives at the barrier that lies at this place in the shared memory of a block of the cluster.
/// It tells that something has been read, for which no earlier write needs to be seen: a release to
/// the cluster would wait for all of them, each time.
__device__ inline void barrier_arrive_at(std::uint64_t* barrier, int block) {
  asm volatile(
      "{\n.reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [there];\n}" ::"r"(
          shared_address(barrier)),
      "r"(block)
      : "memory");
}

// ---- roles -----------------------------------------------------------------------------------

/// The warpgroup's threads take or give up registers until they have `count`, a multiple of 8.
template <int count>
__device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));
}
template <int count>
__device__ inline void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));
}

// ---- products of a warpgroup -----------------------------------------------------------------
// d[64, n] (+)= A[64, 16] B[n, 16]^T in bf16, sums in f32. Operands in shared memory lie as tiles
// with rows of 128 bytes that are swizzled as tensor_load leaves them, at multiples of 1024 bytes;
// A may come from registers instead.
//   k_major   rows are rows of the operand (m or n), 64 of its columns (k) wide
//   mn_major  rows are its columns (k), 64 of its rows (m or n) wide; further blocks of 64 rows
//             follow at block_bytes
//
// Thread t of the warpgroup holds of d, with r = t / 32 * 16 + t % 32 / 4 and c = t % 4 * 2:
//   d[4 j], d[4 j + 1]      row r,     columns 8 j + c, 8 j + c + 1
//   d[4 j + 2], d[4 j + 3]  row r + 8, the same columns
// and of A in registers, two bf16 each, the lower column in the lower half:
//   a[0] row r, columns c..; a[1] row r + 8, c..; a[2] row r, c + 8..; a[3] row r + 8, c + 8..
// so that d of columns 16 i .. 16 i + 15, rounded, is A of the same columns.

__device__ inline std::uint64_t describe_k_major(const void* tile) {
  constexpr std::uint64_t kSwizzle128 = std::uint64_t{1} << 62;
  constexpr std::uint64_t kGroup = std::uint64_t{1024 >> 4} << 32;  // from 8 rows to the next 8
  return kSwizzle128 | kGroup | std::uint64_t{1} << 16 | ((shared_address(tile) & 0x3ffffu) >> 4);
}
__device__ inline std::uint64_t describe_mn_major(const void* tile, int block_bytes) {
  constexpr std::uint64_t kSwizzle128 = std::uint64_t{1} << 62;
  constexpr std::uint64_t kGroup = std::uint64_t{1024 >> 4} << 32;
  return kSwizzle128 | kGroup | static_cast<std::uint64_t>(block_bytes >> 4) << 16 |
         ((shared_address(tile) & 0x3ffffu) >> 4);
}
/// What is added to a description for the 16 columns (k) after the first 16 `i` times over: inside
/// a tile, so i < 4 where k_major.
__device__ constexpr std::uint64_t k_major_step(int i) {
  return static_cast<std::uint64_t>(i * 32 >> 4);
}
__device__ constexpr std::uint64_t mn_major_step(int i) {
  return static_cast<std::uint64_t>(i * 16 * 128 >> 4);
}

/// Before the first product of a batch: registers that it reads or adds to are in place.
__device__ inline void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ inline void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// Waits until at most `pending` committed batches are unfinished.
template <int pending>
__device__ inline void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}
/// Keeps the compiler from moving its own uses of accumulators across this point: after
/// wgmma_wait() and before wgmma_fence().
template <int n>
__device__ inline void hold(float (&d)[n]) {
#pragma unroll
  for (int i = 0; i < n; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
template <int n>
__device__ inline void hold(std::uint32_t (&a)[n]) {
#pragma unroll
  for (int i = 0; i < n; ++i) asm volatile("" : "+r"(a[i])::"memory");
}

#define SAMBA_EIGHT(d, i)                                                                     \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])

/// d[64, 2 m] (+)= A B^T with both operands in shared memory, `m` the accumulators of a thread.
/// `add` 0 overwrites d. a_mn, b_mn: whether an operand is mn_major (1) or k_major (0).
template <int a_mn, int b_mn, int m>
__device__ inline void wgmma(float (&d)[m], std::uint64_t a, std::uint64_t b, int add) {
  if constexpr (m == 16) {
    asm volatile(
        "{\n.reg .pred p;\n"
        "setp.ne.b32 p, %18, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
        "%16, %17, p, 1, 1, %19, %20;\n}"
        : SAMBA_EIGHT(d, 0), SAMBA_EIGHT(d, 8)
        : "l"(a), "l"(b), "r"(add), "n"(a_mn), "n"(b_mn));
  } else if constexpr (m == 32) {
    asm volatile(
        "{\n.reg .pred p;\n"
        "setp.ne.b32 p, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "%32, %33, p, 1, 1, %35, %36;\n}"
        : SAMBA_EIGHT(d, 0), SAMBA_EIGHT(d, 8), SAMBA_EIGHT(d, 16), SAMBA_EIGHT(d, 24)
        : "l"(a), "l"(b), "r"(add), "n"(a_mn), "n"(b_mn));
  } else if constexpr (m == 48) {
    asm volatile(
        "{\n.reg .pred p;\n"
        "setp.ne.b32 p, %50, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47}, "
        "%48, %49, p, 1, 1, %51, %52;\n}"
        : SAMBA_EIGHT(d, 0), SAMBA_EIGHT(d, 8), SAMBA_EIGHT(d, 16), SAMBA_EIGHT(d, 24),
          SAMBA_EIGHT(d, 32), SAMBA_EIGHT(d, 40)
        : "l"(a), "l"(b), "r"(add), "n"(a_mn), "n"(b_mn));
  } else if constexpr (m == 64) {
    asm volatile(
        "{\n.reg .pred p;\n"
        "setp.ne.b32 p, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "%64, %65, p, 1, 1, %67, %68;\n}"
        : SAMBA_EIGHT(d, 0), SAMBA_EIGHT(d, 8), SAMBA_EIGHT(d, 16), SAMBA_EIGHT(d, 24),
          SAMBA_EIGHT(d, 32), SAMBA_EIGHT(d, 40), SAMBA_EIGHT(d, 48), SAMBA_EIGHT(d, 56)
        : "l"(a), "l"(b), "r"(add), "n"(a_mn), "n"(b_mn));
  } else if constexpr (m == 96) {
    asm volatile(
        "{\n.reg .pred p;\n"
        "setp.ne.b32 p, %98, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95}, "
        "%96, %97, p, 1, 1, %99, %100;\n}"
        : SAMBA_EIGHT(d, 0), SAMBA_EIGHT(d, 8), SAMBA_EIGHT(d, 16), SAMBA_EIGHT(d, 24),
          SAMBA_EIGHT(d, 32), SAMBA_EIGHT(d, 40), SAMBA_EIGHT(d, 48), SAMBA_EIGHT(d, 56),
          SAMBA_EIGHT(d, 64), SAMBA_EIGHT(d, 72), SAMBA_EIGHT(d, 80), SAMBA_EIGHT(d, 88)
        : "l"(a), "l"(b), "r"(add), "n"(a_mn), "n"(b_mn));
  } else if constexpr (m == 128) {
    asm volatile(
        "{\n.reg .pred p;\n"
        "setp.ne.b32 p, %130, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
        "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, "
        "%111, "
        "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, "
        "%127}, "
        "%128, %129, p, 1, 1, %131, %132;\n}"
        : SAMBA_EIGHT(d, 0), SAMBA_EIGHT(d, 8), SAMBA_EIGHT(d, 16), SAMBA_EIGHT(d, 24),
          SAMBA_EIGHT(d, 32), SAMBA_EIGHT(d, 40), SAMBA_EIGHT(d, 48), SAMBA_EIGHT(d, 56),
          SAMBA_EIGHT(d, 64), SAMBA_EIGHT(d, 72), SAMBA_EIGHT(d, 80), SAMBA_EIGHT(d, 88),
          SAMBA_EIGHT(d, 96), SAMBA_EIGHT(d, 104), SAMBA_EIGHT(d, 112), SAMBA_EIGHT(d, 120)
        : "l"(a), "l"(b), "r"(add), "n"(a_mn), "n"(b_mn));
  } else {
    static_assert(m == 0, "wgmma of this width is not written down");
  }
}

/// The same with A in registers.
template <int b_mn, int m>
__device__ inline void wgmma(float (&d)[m], const std::uint32_t (&a)[4], std::uint64_t b, int add) {
  if constexpr (m == 16) {
    asm volatile(
        "{\n.reg .pred p;\n"
        "setp.ne.b32 p, %21, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
        "{%16, %17, %18, %19}, %20, p, 1, 1, %22;\n}"
        : SAMBA_EIGHT(d, 0), SAMBA_EIGHT(d, 8)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(b_mn));
  } else if constexpr (m == 32) {
    asm volatile(
        "{\n.reg .pred p;\n"
        "setp.ne.b32 p, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "{%32, %33, %34, %35}, %36, p, 1, 1, %38;\n}"
        : SAMBA_EIGHT(d, 0), SAMBA_EIGHT(d, 8), SAMBA_EIGHT(d, 16), SAMBA_EIGHT(d, 24)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(b_mn));
  } else if constexpr (m == 48) {
    asm volatile(
        "{\n.reg .pred p;\n"
        "setp.ne.b32 p, %53, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47}, "
        "{%48, %49, %50, %51}, %52, p, 1, 1, %54;\n}"
        : SAMBA_EIGHT(d, 0), SAMBA_EIGHT(d, 8), SAMBA_EIGHT(d, 16), SAMBA_EIGHT(d, 24),
          SAMBA_EIGHT(d, 32), SAMBA_EIGHT(d, 40)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(b_mn));
  } else if constexpr (m == 64) {
    asm volatile(
        "{\n.reg .pred p;\n"
        "setp.ne.b32 p, %69, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "{%64, %65, %66, %67}, %68, p, 1, 1, %70;\n}"
        : SAMBA_EIGHT(d, 0), SAMBA_EIGHT(d, 8), SAMBA_EIGHT(d, 16), SAMBA_EIGHT(d, 24),
          SAMBA_EIGHT(d, 32), SAMBA_EIGHT(d, 40), SAMBA_EIGHT(d, 48), SAMBA_EIGHT(d, 56)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(b_mn));
  } else if constexpr (m == 96) {
    asm volatile(
        "{\n.reg .pred p;\n"
        "setp.ne.b32 p, %101, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n192k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95}, "
        "{%96, %97, %98, %99}, %100, p, 1, 1, %102;\n}"
        : SAMBA_EIGHT(d, 0), SAMBA_EIGHT(d, 8), SAMBA_EIGHT(d, 16), SAMBA_EIGHT(d, 24),
          SAMBA_EIGHT(d, 32), SAMBA_EIGHT(d, 40), SAMBA_EIGHT(d, 48), SAMBA_EIGHT(d, 56),
          SAMBA_EIGHT(d, 64), SAMBA_EIGHT(d, 72), SAMBA_EIGHT(d, 80), SAMBA_EIGHT(d, 88)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(b_mn));
  } else if constexpr (m == 128) {
    asm volatile(
        "{\n.reg .pred p;\n"
        "setp.ne.b32 p, %133, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
        "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, "
        "%111, "
        "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, "
        "%127}, "
        "{%128, %129, %130, %131}, %132, p, 1, 1, %134;\n}"
        : SAMBA_EIGHT(d, 0), SAMBA_EIGHT(d, 8), SAMBA_EIGHT(d, 16), SAMBA_EIGHT(d, 24),
          SAMBA_EIGHT(d, 32), SAMBA_EIGHT(d, 40), SAMBA_EIGHT(d, 48), SAMBA_EIGHT(d, 56),
          SAMBA_EIGHT(d, 64), SAMBA_EIGHT(d, 72), SAMBA_EIGHT(d, 80), SAMBA_EIGHT(d, 88),
          SAMBA_EIGHT(d, 96), SAMBA_EIGHT(d, 104), SAMBA_EIGHT(d, 112), SAMBA_EIGHT(d, 120)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(b_mn));
  } else {
    static_assert(m == 0, "wgmma of this width is not written down");
  }
}

#undef SAMBA_EIGHT

#endif  // SAMBA_SM90A

}  // namespace samba::hopper
