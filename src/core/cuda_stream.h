#pragma once

#include <cuda_runtime.h>

#include <list>
#include <memory>
#include <source_location>
#include <span>
#include <vector>

#include "core/stream.h"

namespace samba {

class CudaBlas;

/// Throws an Error with the runtime's own words and the place of the call. A CUDA error is final
/// for the process: its GPU's memory is lost.
void cuda_check(cudaError_t, std::source_location = std::source_location::current());

/// A queue of kernels on one GPU, in whose order memory is reused too. For .cu files alone.
class CudaStream {
 public:
  CudaStream(int device, CudaMemory);
  ~CudaStream();
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;

  /// For <<<grid, block, shared, stream.get()>>>.
  cudaStream_t get() const { return stream_; }
  const std::shared_ptr<Pool>& pool() const { return pool_; }
  /// Whether each op is waited for.
  bool waits() const { return waits_; }
  /// Whether nothing is run: Stream::rehearsal().
  bool rehearses() const { return rehearses_; }
  int device() const { return device_; }
  void set_waits(bool on) { waits_ = on; }
  const cudaDeviceProp& properties() const { return properties_; }
  int multiprocessors() const { return properties_.multiProcessorCount; }
  /// Whether kernels of sm_90a run: TMA and wgmma.
  bool hopper() const { return properties_.major == 9 && properties_.minor == 0; }

  /// The GPU's copy of `values`, which are uploaded unless one of the last few uploads held the
  /// same bytes: the spans of a pass travel once. For kernels queued before the next call.
  template <class T>
  const T* resident(std::span<const T> values) {
    return static_cast<const T*>(resident(values.data(), values.size_bytes()));
  }

  /// Between the two, what is queued is recorded instead, with matrices from this pool.
  void begin_recording(CudaRecording&, std::shared_ptr<Pool>);
  void end_recording();

  /// Matrix products: core/cuda_blas.h.
  CudaBlas& blas();

 private:
  struct Upload {
    std::vector<std::byte> bytes;
    Matrix copy;
  };
  const void* resident(const void* data, std::size_t bytes);
  const void* recorded(CudaRecording&, const void* data, std::size_t bytes);

  int device_;
  bool waits_;
  bool rehearses_;
  cudaDeviceProp properties_{};
  cudaStream_t stream_ = nullptr;
  std::shared_ptr<Pool> pool_;
  CudaRecording* recording_ = nullptr;  ///< under way
  std::shared_ptr<Pool> usual_pool_;    ///< meanwhile
  std::list<Upload> uploads_;           ///< newest first
  std::unique_ptr<CudaBlas> blas_;
};

/// What a Recording holds.
class CudaRecording {
 public:
  CudaRecording() = default;
  ~CudaRecording();
  CudaRecording(const CudaRecording&) = delete;
  CudaRecording& operator=(const CudaRecording&) = delete;

  std::vector<std::byte> bytes;   ///< what was uploaded, as it was
  std::byte* uploaded = nullptr;  ///< pinned; each run copies it to the GPU
  Matrix on_gpu;
  cudaGraphExec_t graph = nullptr;
};

}  // namespace samba
