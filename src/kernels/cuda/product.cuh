#pragma once

#include "core/cuda_blas.h"
#include "core/cuda_stream.h"
#include "kernels/linear.h"

// Our own products of bf16 matrices on Hopper: product_hopper.cuh. Each says whether it takes the
// product; if so it is queued.
namespace samba::product {

/// Blocks that share what they copy of the right factor.
constexpr int kCluster = 2;
/// Batches of products that a warpgroup leaves unfinished while it issues the next.
constexpr int kPending = 1;
/// Steps by which the second warpgroup of a block lags behind the first, so that one multiplies
/// alone, at twice its speed, while the other sends its results away.
constexpr int kLag = 1;

bool multiply(CudaStream&, const MatrixProduct&);
/// `gated` of op::Linear, and `product` of op::LinearBackward.
bool multiply_gated(CudaStream&, const op::Linear&);
bool multiply_gated_backward(CudaStream&, const op::LinearBackward&);

// The parts of multiply(), each in a file of its own.
void multiply_forward(CudaStream&, const MatrixProduct&);
void multiply_inputs(CudaStream&, const MatrixProduct&);
void multiply_weights(CudaStream&, const MatrixProduct&);

}  // namespace samba::product
