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

/// kernel<<<grid, block, shared>>>(arguments...), also with more shared memory than a kernel has
/// without asking. Grids of nothing are not launched, nor is anything in a rehearsal.
template <class... Parameters, class... Arguments>
void launch(CudaStream& stream, void (*kernel)(Parameters...), dim3 grid, dim3 block,
            std::size_t shared, const Arguments&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || stream.rehearses()) return;
  constexpr std::size_t kUnasked = 48 << 10;
  if (shared > kUnasked)
    cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(shared)));
  kernel<<<grid, block, shared, stream.get()>>>(arguments...);
}

}  // namespace samba
