#include <cstring>
#include <utility>

#include "core/cuda_blas.h"
#include "core/cuda_stream.h"
#include "core/error.h"

namespace samba {
namespace {

constexpr std::size_t kUploads = 16;

std::byte* take_from_gpu(std::size_t bytes) {
  void* block = nullptr;
  if (cudaMalloc(&block, bytes > 0 ? bytes : 1) == cudaSuccess)
    return static_cast<std::byte*>(block);
  cudaGetLastError();  // it is reported by the pool
  return nullptr;
}

void give_to_gpu(std::byte* block) {
  cudaFree(block);
}

std::byte* take_pinned(std::size_t bytes) {
  void* block = nullptr;
  if (cudaHostAlloc(&block, bytes > 0 ? bytes : 1, cudaHostAllocMapped) == cudaSuccess)
    return static_cast<std::byte*>(block);
  cudaGetLastError();
  return nullptr;
}

void give_pinned(std::byte* block) {
  cudaFreeHost(block);
}

constexpr Pool::Source kGpuMemory{take_from_gpu, give_to_gpu, "memory of the GPU"};
constexpr Pool::Source kPinned{take_pinned, give_pinned, "pinned memory"};

Pool::Source source_of(CudaMemory memory) {
  switch (memory) {
    case CudaMemory::device: return kGpuMemory;
    case CudaMemory::host: return kPinned;
    case CudaMemory::none: return Pool::addresses();
  }
  return kGpuMemory;
}

}  // namespace

void cuda_check(cudaError_t error, std::source_location where) {
  if (error == cudaSuccess) return;
  fail("cuda: ", cudaGetErrorString(error), " (", cudaGetErrorName(error), ", ", where.file_name(),
       ":", where.line(), ")");
}

CudaStream::CudaStream(int device, CudaMemory memory)
    : device_(device), waits_(memory == CudaMemory::host), rehearses_(memory == CudaMemory::none) {
  cuda_check(cudaSetDevice(device));
  cuda_check(cudaGetDeviceProperties(&properties_, device));
  if (properties_.major < 8)
    fail("device: cuda:", device, " is a ", properties_.name, " of compute capability ",
         properties_.major, ".", properties_.minor, "; the kernels need 8.0 or more");
  cuda_check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  pool_ = std::make_shared<Pool>(source_of(memory));
}

CudaStream::~CudaStream() {
  cudaStreamSynchronize(stream_);
  cudaStreamDestroy(stream_);
}

const void* CudaStream::resident(const void* data, std::size_t bytes) {
  if (recording_ != nullptr) return recorded(*recording_, data, bytes);
  for (auto upload = uploads_.begin(); upload != uploads_.end(); ++upload)
    if (upload->bytes.size() == bytes && std::memcmp(upload->bytes.data(), data, bytes) == 0) {
      uploads_.splice(uploads_.begin(), uploads_, upload);
      return uploads_.front().copy.view().data;
    }
  const auto* first = static_cast<const std::byte*>(data);
  uploads_.push_front({{first, first + bytes}, Matrix()});
  Matrix& copy = uploads_.front().copy;
  copy = Matrix(*this, DType::i32, 1, (static_cast<Index>(bytes) + 3) / 4);
  if (!rehearses_)
    cuda_check(cudaMemcpyAsync(copy.view().data, data, bytes, cudaMemcpyDefault, stream_));
  if (uploads_.size() > kUploads) uploads_.pop_back();
  return copy.view().data;
}

const void* CudaStream::recorded(CudaRecording& r, const void* data, std::size_t bytes) {
  if (r.uploaded == nullptr) {
    const auto* first = static_cast<const std::byte*>(data);
    r.bytes.assign(first, first + bytes);
    r.uploaded = take_pinned(bytes);
    if (r.uploaded == nullptr) fail("pinned memory: ", bytes, " bytes were asked for");
    std::memcpy(r.uploaded, data, bytes);
    r.on_gpu = Matrix(*this, DType::i32, 1, (static_cast<Index>(bytes) + 3) / 4);
  }
  if (r.bytes.size() != bytes || std::memcmp(r.bytes.data(), data, bytes) != 0)
    fail("cuda: found a second upload in a recording; expected one batch");
  return r.on_gpu.view().data;
}

void CudaStream::begin_recording(CudaRecording& recording, std::shared_ptr<Pool> pool) {
  usual_pool_ = std::exchange(pool_, std::move(pool));
  recording_ = &recording;
  cuda_check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed));
}

void CudaStream::end_recording() {
  CudaRecording& recording = *std::exchange(recording_, nullptr);
  pool_ = std::move(usual_pool_);
  cudaGraph_t graph = nullptr;
  cuda_check(cudaStreamEndCapture(stream_, &graph));
  const cudaError_t error = cudaGraphInstantiate(&recording.graph, graph, 0);
  cudaGraphDestroy(graph);
  cuda_check(error);
}

CudaRecording::~CudaRecording() {
  if (graph != nullptr) cudaGraphExecDestroy(graph);
  if (uploaded != nullptr) give_pinned(uploaded);
}

CudaBlas& CudaStream::blas() {
  if (blas_ == nullptr) blas_ = std::make_unique<CudaBlas>();
  return *blas_;
}

bool built_with_cuda() {
  return true;
}

int cuda_devices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();
  return 0;
}

std::shared_ptr<CudaStream> open_cuda(int device, CudaMemory memory) {
  const int count = cuda_devices();
  if (count == 0) fail("device: no NVIDIA GPU, or no driver for it, on this machine");
  if (device < 0 || device >= count)
    fail("device: expected cuda:0 to cuda:", count - 1, ", found cuda:", device);
  return std::make_shared<CudaStream>(device, memory);
}

int device_of(const CudaStream& stream) {
  return stream.device();
}

std::shared_ptr<Pool> pool_of(const CudaStream& stream) {
  return stream.pool();
}

std::string name_of(const CudaStream& stream) {
  return stream.properties().name;
}

std::string card_of(const CudaStream& stream) {
  std::string text = name_of(stream) + ' ';
  for (const char byte : stream.properties().uuid.bytes) {
    const auto value = static_cast<unsigned char>(byte);
    text += "0123456789abcdef"[value / 16];
    text += "0123456789abcdef"[value % 16];
  }
  return text;
}

std::shared_ptr<Pool> pool_like(const CudaStream&) {
  return std::make_shared<Pool>(kGpuMemory);
}

std::shared_ptr<Pool> common_pool_of(const CudaStream&) {
  return std::make_shared<Pool>(kPinned);
}

bool waits(const CudaStream& stream) {
  return stream.waits();
}

std::shared_ptr<CudaRecording> record(CudaStream& stream, const std::shared_ptr<Pool>& pool,
                                      const std::function<void()>& work) {
  auto recording = std::make_shared<CudaRecording>();
  stream.begin_recording(*recording, pool);
  try {
    work();
  } catch (...) {
    try {
      stream.end_recording();
    } catch (const Error&) {
      cudaGetLastError();  // the first error says more
    }
    throw;
  }
  stream.end_recording();
  return recording;
}

std::span<std::byte> uploaded(CudaRecording& recording) {
  return {recording.uploaded, recording.bytes.size()};
}

/// The upload is none of the recording's nodes: between two kernels it would part them.
void run(CudaStream& stream, CudaRecording& recording) {
  if (recording.uploaded != nullptr)
    cuda_check(cudaMemcpyAsync(recording.on_gpu.view().data, recording.uploaded,
                               recording.bytes.size(), cudaMemcpyHostToDevice, stream.get()));
  cuda_check(cudaGraphLaunch(recording.graph, stream.get()));
}

std::size_t free_memory(const CudaStream&) {
  std::size_t free = 0, total = 0;
  cuda_check(cudaMemGetInfo(&free, &total));
  return free;
}

void wait(const CudaStream& stream) {
  cuda_check(cudaStreamSynchronize(stream.get()));
}

void wait_after_ops(CudaStream& stream, bool on) {
  stream.set_waits(on);
}

void finish(const CudaStream& stream, const char* op) {
  cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess && stream.waits()) error = cudaStreamSynchronize(stream.get());
  if (error != cudaSuccess)
    fail(op, ": ", cudaGetErrorString(error), " (", cudaGetErrorName(error), ")");
}

bool on_gpu(const std::byte* data) {
  cudaPointerAttributes attributes{};
  if (cudaPointerGetAttributes(&attributes, data) == cudaSuccess)
    return attributes.type == cudaMemoryTypeDevice;
  cudaGetLastError();
  return false;
}

void transfer(const CudaStream& stream, std::byte* to, std::size_t to_pitch, const std::byte* from,
              std::size_t from_pitch, std::size_t bytes, std::size_t rows) {
  if (bytes == 0 || rows == 0 || stream.rehearses()) return;
  if ((to_pitch == bytes && from_pitch == bytes) || rows == 1)
    cuda_check(cudaMemcpyAsync(to, from, bytes * rows, cudaMemcpyDefault, stream.get()));
  else
    cuda_check(cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, bytes, rows, cudaMemcpyDefault,
                                 stream.get()));
  if (!on_gpu(to) || !on_gpu(from)) wait(stream);
}

void zero(const CudaStream& stream, std::byte* to, std::size_t pitch, std::size_t bytes,
          std::size_t rows) {
  if (bytes == 0 || rows == 0 || stream.rehearses()) return;
  if (pitch == bytes || rows == 1)
    cuda_check(cudaMemsetAsync(to, 0, bytes * rows, stream.get()));
  else
    cuda_check(cudaMemset2DAsync(to, pitch, 0, bytes, rows, stream.get()));
  if (stream.waits()) wait(stream);
}

}  // namespace samba
