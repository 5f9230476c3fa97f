#pragma once

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/mma.cuh"
#include "kernels/linear.h"

// How products of few rows of bf16 are summed, for kernels that all leave the same bits.
//
// Warps take steps of the inputs in turn, and multiply each by tensor cores in two products of 16
// x 8 x 16; of its 4 x 8 inputs the first has the first four of each eight, the second the others.
// The sums of the warps are added in order, and rounded once.

namespace samba {

namespace few_rows {

constexpr Index kMostRows = 128;

/// Whether multiply() takes the product. It norms x, and gates, rotates and convolves y, where that
/// is asked for; `product` stays empty.
bool takes(const CudaStream&, const op::Linear&);
/// Leaves the bits that the ops would leave one after the other.
void multiply(CudaStream&, const op::Linear&);

}  // namespace few_rows

namespace {

constexpr int kStep = 32;  ///< inputs that a warp multiplies at a time
constexpr int kLeft = 16;  ///< rows of the tensor core's left factor, rows of the weight

/// Where there are no more tiles of kLeft rows than multiprocessors (of an H100), each needs more
/// warps to keep the memory busy, but none needs more than it has steps. The order of the sums
/// depends on their number, so that must not depend on the rows that are multiplied.
inline int warps_for(ConstView w) {
  const Index blocks = ceil_div(w.rows, Index{kLeft}), steps = ceil_div(w.cols, Index{kStep});
  if (steps <= 4) return 4;
  return blocks <= 132 && steps > 8 ? 16 : 8;
}

/// sum += the products of a step: a lane's 8 inputs of rows l / 4 and l / 4 + 8 of the weight, and
/// of row l / 4 of the other factor.
__device__ inline void multiply_step(float (&sum)[4], const uint4& high, const uint4& low,
                                     const uint4& x) {
  multiply_add(sum, {high.x, low.x, high.y, low.y}, x.x, x.y);
  multiply_add(sum, {high.z, low.z, high.w, low.w}, x.z, x.w);
}

}  // namespace
}  // namespace samba
