#pragma once

#include <cstdint>
#include <type_traits>

#include "core/cuda_stream.h"
#include "core/error.h"

namespace samba {

/// Sets a matrix of scratch to zero.
inline void clear(CudaStream& stream, View v) {
  const auto bytes = static_cast<std::size_t>(v.cols * size_of(v.dtype));
  zero(stream, v.data, static_cast<std::size_t>(v.stride * size_of(v.dtype)), bytes,
       static_cast<std::size_t>(v.rows));
}

template <class A, class B>
__host__ __device__ constexpr auto ceil_div(A a, B b) {
  return (a + b - 1) / b;
}

/// Calls f.template operator()<float>() or <Bf16>(), the element types of this half of the house.
template <class F>
void visit_float(DType dtype, const F& f) {
  if (dtype == DType::f32) return f.template operator()<float>();
  if (dtype == DType::bf16) return f.template operator()<Bf16>();
  fail("cuda: expected f32 or bf16, found ", name_of(dtype));
}

/// Asks for more shared memory than a kernel has without asking.
template <class... Parameters>
void allow_shared(void (*kernel)(Parameters...), std::size_t shared) {
  constexpr std::size_t kUnasked = 48 << 10;
  if (shared > kUnasked)
    cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shared)));
}

/// kernel<<<grid, block, shared>>>(arguments...), with as much shared memory as it says. Grids of
/// nothing are not launched, nor is anything in a rehearsal.
template <class... Parameters, class... Arguments>
void launch(CudaStream& stream, void (*kernel)(Parameters...), dim3 grid, dim3 block,
            std::size_t shared, const Arguments&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || stream.rehearses()) return;
  allow_shared(kernel, shared);
  kernel<<<grid, block, shared, stream.get()>>>(arguments...);
}

/// The same with an attribute.
template <class... Parameters, class... Arguments>
void launch_with(const cudaLaunchAttribute& attribute, CudaStream& stream,
                 void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared,
                 const Arguments&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || stream.rehearses()) return;
  allow_shared(kernel, shared);
  cudaLaunchAttribute own = attribute;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = stream.get();
  config.attrs = &own;
  config.numAttrs = 1;
  cuda_check(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
}

// Decoding is a chain of kernels so short that their beginnings and ends take longer than their
// work. So on Hopper a kernel of that chain may begin before the one before it has ended
// (launch_early). NVIDIA, CUDA Programming Guide, "Programmatic Dependent Launch and
// Synchronization". What keeps that right:
//
//   - Each thread of a kernel that is launched early calls wait_for_previous() before it ends,
//     before it writes anything, and before it reads what any kernel of the chain writes. Then all
//     kernels before have ended, for they have waited likewise.
//   - Before that it reads nothing but weights and spans, whose writers have ended for certain: a
//     pass begins with a kernel that is launched in the ordinary way, op::Embedding's, behind all
//     that wrote weights, and spans come by copies, which no kernel overtakes. It may prefetch
//     anything, for the cache that prefetches go to is the one that writes go to.
//   - let_next_begin() says that the next kernel may begin when all blocks have called it or have
//     ended. It promises nothing about what was written.

/// Launches a kernel that calls wait_for_previous(), as launch() does, but early.
template <class... Parameters, class... Arguments>
void launch_early(CudaStream& stream, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                  std::size_t shared, const Arguments&... arguments) {
  if (!stream.hopper()) return launch(stream, kernel, grid, block, shared, arguments...);
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  launch_with(early, stream, kernel, grid, block, shared, arguments...);
}

/// Waits for the end of all kernels before; see above.
__device__ inline void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Asks for the line of memory around `address`, for later.
__device__ inline void prefetch(const void* address) {
#if defined(__CUDA_ARCH__)
  asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(address)));
#endif
}

/// Asks for `bytes` neighbouring bytes, as one thread; address and number are multiples of 16.
__device__ inline void prefetch_run(const void* address, unsigned bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile(
      "cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(__cvta_generic_to_global(address)),
      "r"(bytes));
#endif
}

/// Lets the next kernel begin; see above.
__device__ inline void let_next_begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace samba
