#include <algorithm>

#include "kernels/cuda/attention_backward_parts.cuh"

namespace samba {

void run_on(CudaStream& stream, const op::AttentionBackward& host_op) {
  if (host_op.batch.count == 0) return;
  const std::span spans(host_op.batch.spans, static_cast<std::size_t>(host_op.batch.count));
  op::AttentionBackward op = host_op;
  // No window is longer than the positions that there are: sums of positions cannot overflow.
  Index end = 1;
  for (const Span& span : spans) end = std::max(end, span.position + span.length);
  op.window = std::min(op.window, end);
  op.batch.spans = stream.resident(spans);
  if (attention::differentiate_on_hopper(stream, op, spans)) return;
  if (attention::differentiate_on_tensor_cores(stream, op, spans)) return;
  attention::differentiate_generally(stream, op, spans);
}

}  // namespace samba
