#pragma once

#include "core/cuda_stream.h"
#include "kernels/linear.h"

namespace samba::gated_product {

/// `gated` of op::Linear, and `product` of op::LinearBackward, where what follows the product is
/// made of its sums in registers. Each says whether it takes the call; if so it is queued.
bool multiply(CudaStream&, const op::Linear&);
bool multiply(CudaStream&, const op::LinearBackward&);

}  // namespace samba::gated_product
