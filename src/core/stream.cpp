#include "core/stream.h"

#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <map>
#include <mutex>
#include <optional>
#include <sstream>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/human.h"

namespace samba {
namespace {

constexpr std::size_t kAlignment = 64;
constexpr std::size_t kHugePage = std::size_t{2} << 20;

int usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return CPU_COUNT(&set);
}

std::size_t alignment_of(std::size_t bytes) {
  return bytes >= kHugePage ? kHugePage : kAlignment;
}

std::byte* take_from_machine(std::size_t bytes) {
  const std::size_t alignment = alignment_of(bytes);
  const std::size_t rounded = (bytes + alignment) / alignment * alignment;
  auto* block = static_cast<std::byte*>(std::aligned_alloc(alignment, rounded));
  if (block != nullptr && bytes >= kHugePage) madvise(block, rounded, MADV_HUGEPAGE);
  return block;
}

void give_to_machine(std::byte* block) {
  std::free(block);
}

/// Addresses, each once: of a processor's 47 bits, above what programs are given.
std::byte* take_addresses(std::size_t bytes) {
  static std::atomic<std::uintptr_t> next = std::uintptr_t{1} << 46;
  const std::size_t rounded = (bytes / kHugePage + 1) * kHugePage;
  // NOLINTNEXTLINE(performance-no-int-to-ptr): nobody follows it
  return reinterpret_cast<std::byte*>(next.fetch_add(rounded));
}

void give_addresses(std::byte* /*block*/) {}

/// The number after `key` in a file of the kernel's, or nothing.
std::optional<std::size_t> number_in(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line.substr(0, key.size()) == key ? line.substr(key.size()) : "");
    if (std::size_t number = 0; words >> number) return number;
  }
  return std::nullopt;
}

/// What the machine has for new work without swapping, and what the control groups above this
/// process (version 2) let it take: Linux, proc(5), Documentation/admin-guide/cgroup-v2.rst.
std::size_t free_memory_of_machine() {
  constexpr std::size_t kUnknown = std::numeric_limits<std::size_t>::max();
  std::size_t free = kUnknown;
  if (const auto kib = number_in("/proc/meminfo", "MemAvailable:")) free = *kib << 10;
  std::string line;
  std::ifstream groups("/proc/self/cgroup");
  while (std::getline(groups, line) && line.substr(0, 3) != "0::") line.clear();
  std::string group = line.empty() ? "" : line.substr(3);
  while (!group.empty()) {
    const std::string folder = "/sys/fs/cgroup" + group;
    const auto most = number_in(folder + "/memory.max", "");
    const auto used = number_in(folder + "/memory.current", "");
    if (most && used) {
      // Files that are kept in memory give way.
      std::size_t files = 0;
      for (const char* kind : {"inactive_file ", "active_file "})
        files += number_in(folder + "/memory.stat", kind).value_or(0);
      const std::size_t bound = *used - std::min(files, *used);
      free = std::min(free, *most > bound ? *most - bound : 0);
    }
    group.resize(group == "/" ? 0 : std::max<std::size_t>(group.rfind('/'), 1));
  }
  return free;
}

}  // namespace

void limit_spinning(char** words) {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr) return;
  char program[4096];
  const ssize_t length = readlink("/proc/self/exe", program, sizeof(program) - 1);
  if (length <= 0) return;
  program[length] = '\0';
  setenv("GOMP_SPINCOUNT", "2000", /*overwrite=*/1);
  execv(program, words);  // where it comes back, the program goes on as it is
}

const char* name_of(Tier tier) {
  switch (tier) {
    case Tier::plain: return "plain";
    case Tier::avx2: return "avx2";
    case Tier::avx512: return "avx512";
    case Tier::avx512bf16: return "avx512bf16";
  }
  return "?";
}

Tier tier_of(const std::string& name) {
  for (const Tier tier : kTiers)
    if (name == name_of(tier)) return tier;
  fail("tier: found \"", name, "\"; expected plain, avx2, avx512 or avx512bf16");
}

bool machine_has(Tier tier) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512vnni") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  switch (tier) {
    case Tier::plain: return true;
    case Tier::avx2: return avx2;
    case Tier::avx512: return avx512;
    case Tier::avx512bf16: return avx512 && __builtin_cpu_supports("avx512bf16");
  }
#endif
  return tier == Tier::plain;
}

Tier best_tier() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (machine_has(Tier::avx512bf16) && !__builtin_cpu_is("intel")) return Tier::avx512bf16;
#endif
  for (const Tier tier : {Tier::avx512, Tier::avx2})
    if (machine_has(tier)) return tier;
  return Tier::plain;
}

struct Pool::Shelves {
  Source source;
  std::mutex mutex;
  std::map<std::size_t, std::vector<std::byte*>> free;
  std::size_t held = 0;

  /// Gives back what nobody uses.
  void empty() {
    for (auto& [bytes, blocks] : free) {
      for (std::byte* block : blocks) source.give(block);
      held -= bytes * blocks.size();
    }
    free.clear();
  }
};

Pool::Pool() : Pool(Source{take_from_machine, give_to_machine, "memory"}) {}

Pool::Pool(const Source& source) : shelves_(std::make_unique<Shelves>()) {
  shelves_->source = source;
}

Pool::Source Pool::addresses() {
  return {take_addresses, give_addresses, "addresses"};
}

Pool::~Pool() {
  shelves_->empty();
}

std::byte* Pool::take(std::size_t bytes) {
  const std::lock_guard lock(shelves_->mutex);
  if (auto shelf = shelves_->free.find(bytes);
      shelf != shelves_->free.end() && !shelf->second.empty()) {
    std::byte* block = shelf->second.back();
    shelf->second.pop_back();
    return block;
  }
  std::byte* block = shelves_->source.take(bytes);
  if (block == nullptr) {
    shelves_->empty();
    block = shelves_->source.take(bytes);
  }
  if (block == nullptr)
    fail(shelves_->source.place, ": ", human_bytes(static_cast<double>(bytes)),
         " were asked for beside the ", human_bytes(static_cast<double>(shelves_->held)),
         " in use; there is no more");
  shelves_->held += bytes;
  return block;
}

void Pool::give(std::byte* data, std::size_t bytes) noexcept {
  const std::lock_guard lock(shelves_->mutex);
  shelves_->free[bytes].push_back(data);
}

std::size_t Pool::held() const {
  const std::lock_guard lock(shelves_->mutex);
  return shelves_->held;
}

void Pool::clear() {
  const std::lock_guard lock(shelves_->mutex);
  shelves_->empty();
}

CpuStream::CpuStream(int threads, Tier tier)
    : tier_(tier),
      threads_(threads > 0 ? threads : usable_cores()),
      pool_(std::make_shared<Pool>()) {
  if (!machine_has(tier))
    fail("tier: ", name_of(tier), " was asked for; this machine's best is ", name_of(best_tier()));
}

Stream::Stream(CpuStream host) : host_(std::move(host)), pool_(host_.pool()) {}

Stream::Stream(CpuStream host, int device, CudaMemory memory)
    : host_(std::move(host)), cuda_(open_cuda(device, memory)), pool_(pool_of(*cuda_)) {}

std::string Stream::device() const {
  return cuda_ ? name_of(*cuda_) : name_of(tier());
}

std::string Stream::card() const {
  return card_of(*cuda_);
}

Stream Stream::rehearsal() const {
  Stream stream = cuda_ ? Stream(host_, device_of(*cuda_), CudaMemory::none) : Stream(host_);
  if (!cuda_) stream.pool_ = std::make_shared<Pool>(Pool::addresses());
  stream.rehearses_ = true;
  return stream;
}

std::size_t Stream::free_memory() const {
  return cuda_ ? samba::free_memory(*cuda_) : free_memory_of_machine();
}

void Stream::wait() const {
  if (cuda_) samba::wait(*cuda_);
}

void Stream::wait_after_ops(bool on) const {
  if (cuda_) samba::wait_after_ops(*cuda_, on);
}

std::shared_ptr<Pool> Stream::common_pool() const {
  return cuda_ == nullptr ? pool_ : common_pool_of(*cuda_);
}

bool Stream::records() const {
  return cuda_ && !waits(*cuda_);
}

Recording::Recording(Stream& stream, const std::function<void()>& work)
    : stream_(stream), pool_(pool_like(*stream.cuda())) {
  const std::shared_ptr<Pool> own = std::exchange(stream.pool_, pool_);
  try {
    recording_ = record(*stream.cuda(), pool_, work);
  } catch (...) {
    stream.pool_ = own;
    throw;
  }
  stream.pool_ = own;
}

Recording::~Recording() {
  stream_.wait();
}

std::span<std::byte> Recording::uploaded() {
  return samba::uploaded(*recording_);
}

void Recording::run() {
  samba::run(*stream_.cuda(), *recording_);
}

void copy(const Stream& stream, View to, ConstView from) {
  if (stream.rehearses()) return;
  if (stream.cuda() == nullptr) return copy(to, from);
  if (to.rows != from.rows || to.cols != from.cols)
    fail("copy: expected ", shape_of(to), ", found ", shape_of(from));
  if (to.dtype != from.dtype) {  // converted in the machine's memory
    CpuStream host(stream.threads(), stream.tier());
    if (!on_gpu(from.data)) {
      const Matrix converted(host, to.dtype, to.rows, to.cols);
      copy(converted, from);
      return copy(stream, to, converted);
    }
    const Matrix same(host, from.dtype, from.rows, from.cols);
    copy(stream, same, from);
    return copy(stream, to, same);
  }
  const auto bytes = [&](Index count) {
    return static_cast<std::size_t>(count * size_of(to.dtype));
  };
  transfer(*stream.cuda(), to.data, bytes(to.stride), from.data, bytes(from.stride), bytes(to.cols),
           static_cast<std::size_t>(to.rows));
}

void clear(const Stream& stream, View v) {
  if (stream.rehearses()) return;
  if (stream.cuda() == nullptr) return fill(v, 0);
  const auto bytes = [&](Index count) {
    return static_cast<std::size_t>(count * size_of(v.dtype));
  };
  zero(*stream.cuda(), v.data, bytes(v.stride), bytes(v.cols), static_cast<std::size_t>(v.rows));
}

Matrix download(Stream& stream, ConstView from) {
  Matrix to(stream.host(), from.dtype, from.rows, from.cols);
  if (stream.rehearses()) fill(to, 0);
  copy(stream, to, from);
  return to;
}

Matrix upload(Stream& stream, ConstView from) {
  Matrix to(stream, from.dtype, from.rows, from.cols);
  copy(stream, to, from);
  return to;
}

}  // namespace samba
