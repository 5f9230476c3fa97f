#include "kernels/cuda/attention_hopper.cuh"

namespace samba::attention {

void attend_64(CudaStream& stream, const op::Attention& op, const Span* spans) {
  attend_tiles<Layout<64, 128, 3, 4, 2, 160, 32>>(stream, op, spans);
}

}  // namespace samba::attention
