#include "kernels/cuda/attention_hopper.cuh"

namespace samba::attention {

void attend_256(CudaStream& stream, const op::Attention& op, const Span* spans) {
  attend_tiles<Layout<256, 64, 2, 2, 1, 224, 56>>(stream, op, spans);
}

}  // namespace samba::attention
