#pragma once

#include <cstddef>
#include <memory>
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
  Pool();
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  /// At least `bytes` bytes at a 64-byte boundary, from 2 MiB on at a huge-page boundary.
  /// Throws an Error that states the size when the machine has no more.
  std::byte* take(std::size_t bytes);
  void give(std::byte* data, std::size_t bytes) noexcept;
  /// Bytes taken from the system, in use or kept for reuse.
  std::size_t held() const;

 private:
  struct Shelves;
  std::unique_ptr<Shelves> shelves_;
};

/// Where work is run: an instruction-set tier, a number of threads, and a memory pool.
/// One thread at a time may use a stream.
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

/// The device that a pass runs on. One alternative so far; a CUDA stream becomes the second.
using Stream = CpuStream;

}  // namespace samba
