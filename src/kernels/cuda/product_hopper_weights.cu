#include "kernels/cuda/product_hopper.cuh"

namespace samba::product {

void multiply_weights(CudaStream& stream, const MatrixProduct& p) {
  multiply_plain<Form::weights, Finish::exact>(stream, p);
}

}  // namespace samba::product
