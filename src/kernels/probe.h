#pragma once

#include "core/stream.h"

namespace samba {

/// What this machine can do now: operations per second of a large matrix product of that dtype on
/// the stream, the best of a tenth of a second. Shares of speed are counted against it.
double gemm_flops(Stream&, DType);

}  // namespace samba
