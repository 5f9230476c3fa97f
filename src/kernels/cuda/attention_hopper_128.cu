#include "kernels/cuda/attention_hopper.cuh"

namespace samba::attention {

void attend_128(CudaStream& stream, const op::Attention& op, const Span* spans) {
  attend_tiles<Layout<128, 128, 2, 2, 2, 232, 40>>(stream, op, spans);
}

}  // namespace samba::attention
