#include "core/error.h"
#include "core/stream.h"

// Stands in for core/cuda_stream.cu in a build without CUDA. Nothing can open a GPU's stream, so of
// what needs one nothing is ever called.

namespace samba {

class CudaStream {};
class CudaRecording {};

bool built_with_cuda() {
  return false;
}

int cuda_devices() {
  return 0;
}

std::shared_ptr<CudaStream> open_cuda(int /*device*/, CudaMemory) {
  fail("device: this build has no CUDA; build it with cmake --preset cuda");
}

int device_of(const CudaStream&) {
  return 0;
}

std::shared_ptr<Pool> pool_of(const CudaStream&) {
  return nullptr;
}

std::string name_of(const CudaStream&) {
  return "";
}

std::string card_of(const CudaStream&) {
  return "";
}

std::size_t free_memory(const CudaStream&) {
  return 0;
}

void wait(const CudaStream&) {}

void wait_after_ops(CudaStream&, bool /*on*/) {}

void finish(const CudaStream&, const char* /*op*/) {}

bool waits(const CudaStream&) {
  return true;
}

std::shared_ptr<CudaRecording> record(CudaStream&, const std::shared_ptr<Pool>&,
                                      const std::function<void()>& /*work*/) {
  return nullptr;
}

std::span<std::byte> uploaded(CudaRecording&) {
  return {};
}

void run(CudaStream&, CudaRecording&) {}

std::shared_ptr<Pool> pool_like(const CudaStream&) {
  return nullptr;
}

std::shared_ptr<Pool> common_pool_of(const CudaStream&) {
  return nullptr;
}

bool on_gpu(const std::byte* /*data*/) {
  return false;
}

void transfer(const CudaStream&, std::byte* /*to*/, std::size_t /*to_pitch*/,
              const std::byte* /*from*/, std::size_t /*from_pitch*/, std::size_t /*bytes*/,
              std::size_t /*rows*/) {}

void zero(const CudaStream&, std::byte* /*to*/, std::size_t /*pitch*/, std::size_t /*bytes*/,
          std::size_t /*rows*/) {}

}  // namespace samba
