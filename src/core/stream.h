#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "core/matrix.h"

namespace samba {

/// Instruction sets that the CPU kernels are compiled for; each contains those before it.
///   plain       what every machine of the architecture has; the only tier that computes in f64
///   avx2        AVX2, FMA
///   avx512      AVX-512 F/BW/DQ/VL with VNNI; bf16 is widened to f32
///   avx512bf16  the same with BF16: pairs of bf16 are multiplied as they are
enum class Tier : std::uint8_t { plain, avx2, avx512, avx512bf16 };
constexpr Tier kTiers[] = {Tier::plain, Tier::avx2, Tier::avx512, Tier::avx512bf16};

const char* name_of(Tier);
/// The tier of that name; throws an Error that lists the names.
Tier tier_of(const std::string& name);
/// Whether this machine can run the tier.
bool machine_has(Tier);
/// The fastest tier of this machine: the last that it has, but avx512 on Intel's processors. There
/// VDPBF16PS does two multiplications where FMA does one, in four times its time.
Tier best_tier();

/// A thread that waits for the others spins before it sleeps. libgomp's own limit, about a
/// millisecond, is lost at every barrier where other programs use the cores too: beside one busy
/// program training ran 4 to 15 times slower. This sets one of some tens of microseconds, which
/// still outlasts the gaps between kernels; who sets OMP_WAIT_POLICY or GOMP_SPINCOUNT is left
/// alone. libgomp reads it before main, so the program starts itself again, as the same process:
/// call it first. `words` are main's.
void limit_spinning(char** words);

/// Recycles memory by size: what one training step has allocated serves the next.
class Pool {
 public:
  /// Where memory comes from and goes back to.
  struct Source {
    /// At least `bytes` bytes, at a 64-byte boundary; null when there are no more.
    std::byte* (*take)(std::size_t bytes);
    void (*give)(std::byte*);
    const char* place;  ///< "memory", in errors
  };

  /// The machine's own memory, from 2 MiB on at a huge-page boundary.
  Pool();
  explicit Pool(const Source&);
  /// Addresses that nothing lies behind.
  static Source addresses();
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  /// At least `bytes` bytes. Throws an Error that states the size when the source has no more, also
  /// after everything that was kept for reuse went back to it.
  std::byte* take(std::size_t bytes);
  void give(std::byte* data, std::size_t bytes) noexcept;
  /// Bytes taken from the source, in use or kept for reuse.
  std::size_t held() const;
  /// Gives back to the source what is kept for reuse.
  void clear();

 private:
  struct Shelves;
  std::unique_ptr<Shelves> shelves_;
};

/// The processor's side of a stream: an instruction-set tier, a number of threads, and a memory
/// pool.
class CpuStream {
 public:
  /// threads: 0 means one for each core that the process may use.
  explicit CpuStream(int threads = 0, Tier tier = best_tier());

  Tier tier() const { return tier_; }
  int threads() const { return threads_; }
  const std::shared_ptr<Pool>& pool() const { return pool_; }

 private:
  Tier tier_;
  int threads_;
  std::shared_ptr<Pool> pool_;
};

/// The GPU's side of a stream, a queue of its kernels: core/cuda_stream.h.
class CudaStream;
class CudaRecording;

/// Where the matrices of a GPU's stream lie.
///   device  the GPU's memory
///   host    for tests: pinned memory of the machine, which kernels reach over the bus and programs
///           as their own; the stream then waits for each op
///   none    nowhere: a rehearsal
enum class CudaMemory { device, host, none };

/// Where work is run: on the processor or, beside it, on a GPU. One thread at a time may use a
/// stream.
class Stream {
 public:
  Stream(CpuStream host);  // NOLINT(google-explicit-constructor): the processor alone is a stream
  explicit Stream(int threads = 0, Tier tier = best_tier()) : Stream(CpuStream(threads, tier)) {}
  /// GPU number `device`. Throws an Error where there is none, or none that the kernels run on.
  Stream(CpuStream host, int device, CudaMemory memory = CudaMemory::device);

  CpuStream& host() { return host_; }
  /// Null: ops run on the processor.
  CudaStream* cuda() const { return cuda_.get(); }
  Tier tier() const { return host_.tier(); }
  int threads() const { return host_.threads(); }
  /// Memory for the matrices of ops.
  const std::shared_ptr<Pool>& pool() const { return pool_; }
  /// Memory for the few values that ops and the machine exchange all the time: kernels reach it
  /// over the bus, the machine as its own, once it has waited.
  std::shared_ptr<Pool> common_pool() const;
  /// A stream of the same device that tells what work would take: ops are checked and not run,
  /// matrices of ops have addresses and no memory, what is read from them is zero. Its pool holds
  /// as many bytes as this stream's would, on the processor without what kernels take for
  /// themselves.
  Stream rehearsal() const;
  bool rehearses() const { return rehearses_; }
  /// "avx512", "NVIDIA H200"
  std::string device() const;
  /// Tells a GPU from all others: its name and number.
  std::string card() const;
  /// Bytes of its device's memory that can still be taken; on the processor what the machine, and
  /// the group of processes that this one belongs to, leave.
  std::size_t free_memory() const;
  /// Waits for everything that was queued.
  void wait() const;
  /// Whether each op is waited for, so that Profile sees how long it takes and not how long it
  /// takes to queue it. Always so on the processor.
  void wait_after_ops(bool on) const;
  /// Whether each op of a GPU is compared with the processor's: run_compared in kernels/run.h.
  void compare_ops(bool on) { compares_ops_ = on; }
  bool compares_ops() const { return compares_ops_; }
  /// Whether its ops can be recorded: on a GPU, unless each op is waited for.
  bool records() const;

 private:
  friend class Recording;
  CpuStream host_;
  std::shared_ptr<CudaStream> cuda_;
  std::shared_ptr<Pool> pool_;
  bool rehearses_ = false;
  bool compares_ops_ = false;
};

/// Copies between views of one shape in the machine's memory or in that of the stream's GPU, after
/// what was queued before. Dtypes may differ unless both views lie on the GPU. What lies in the
/// machine's memory may be read, or written again, as soon as it returns.
void copy(const Stream&, View to, ConstView from);
/// Sets all elements to zero, after what was queued before.
void clear(const Stream&, View);
/// A copy in the machine's memory.
Matrix download(Stream&, ConstView);
/// A copy in the memory of ops.
Matrix upload(Stream&, ConstView);

/// Ops that a GPU runs again and again as a whole, without being told each one: a CUDA graph. Sizes
/// and places in memory are those of the recording; what its kernels read there may change.
class Recording {
 public:
  /// Records what `work` queues, without running it. The stream must be able to (records()), and
  /// `work` must have run before: libraries allocate when they are first used. Matrices that it
  /// makes belong to the recording.
  Recording(Stream&, const std::function<void()>& work);
  ~Recording();
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

  /// The only values that `work` uploaded, a batch's spans, as the next run will read them.
  std::span<std::byte> uploaded();
  /// Queues it all. What was uploaded must stay until it has run.
  void run();

 private:
  Stream& stream_;
  std::shared_ptr<Pool> pool_;
  std::shared_ptr<CudaRecording> recording_;
};

/// Whether the program was built with its CUDA half.
bool built_with_cuda();
/// The number of GPUs that this program can use: 0 without CUDA or its driver.
int cuda_devices();

// What core/cuda_stream.cu or, in a build without CUDA, core/no_cuda.cpp defines.
std::shared_ptr<CudaStream> open_cuda(int device, CudaMemory);
int device_of(const CudaStream&);
std::shared_ptr<Pool> pool_of(const CudaStream&);
std::string name_of(const CudaStream&);
std::string card_of(const CudaStream&);
std::size_t free_memory(const CudaStream&);
void wait(const CudaStream&);
void wait_after_ops(CudaStream&, bool on);
/// After an op was queued: throws an Error where that failed; waits where each op is waited for.
void finish(const CudaStream&, const char* op);
bool on_gpu(const std::byte*);
bool waits(const CudaStream&);
std::shared_ptr<CudaRecording> record(CudaStream&, const std::shared_ptr<Pool>&,
                                      const std::function<void()>& work);
std::span<std::byte> uploaded(CudaRecording&);
void run(CudaStream&, CudaRecording&);
/// An empty pool of the same memory.
std::shared_ptr<Pool> pool_like(const CudaStream&);
std::shared_ptr<Pool> common_pool_of(const CudaStream&);
/// `rows` runs of `bytes` bytes each, which begin `to_pitch` and `from_pitch` bytes apart.
void transfer(const CudaStream&, std::byte* to, std::size_t to_pitch, const std::byte* from,
              std::size_t from_pitch, std::size_t bytes, std::size_t rows);
void zero(const CudaStream&, std::byte* to, std::size_t pitch, std::size_t bytes, std::size_t rows);

}  // namespace samba
