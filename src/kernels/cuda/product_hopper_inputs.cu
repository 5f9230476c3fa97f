#include "kernels/cuda/product_hopper.cuh"

namespace samba::product {

void multiply_inputs(CudaStream& stream, const MatrixProduct& p) {
  if (p.c.dtype == DType::bf16)
    multiply_plain<Form::inputs, Finish::rounded>(stream, p);
  else
    multiply_plain<Form::inputs, Finish::exact>(stream, p);
}

}  // namespace samba::product
