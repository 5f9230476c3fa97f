#include "core/stream.h"

#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <map>
#include <mutex>
#include <vector>

#include "core/error.h"

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
  std::mutex mutex;
  std::map<std::size_t, std::vector<std::byte*>> free;
  std::size_t held = 0;
};

Pool::Pool() : shelves_(std::make_unique<Shelves>()) {}

Pool::~Pool() {
  for (auto& [bytes, blocks] : shelves_->free)
    for (std::byte* block : blocks) std::free(block);
}

std::byte* Pool::take(std::size_t bytes) {
  const std::lock_guard lock(shelves_->mutex);
  if (auto shelf = shelves_->free.find(bytes);
      shelf != shelves_->free.end() && !shelf->second.empty()) {
    std::byte* block = shelf->second.back();
    shelf->second.pop_back();
    return block;
  }
  const std::size_t alignment = bytes >= kHugePage ? kHugePage : kAlignment;
  const std::size_t rounded = (bytes + alignment) / alignment * alignment;
  auto* block = static_cast<std::byte*>(std::aligned_alloc(alignment, rounded));
  if (block == nullptr) fail("memory: ", rounded, " bytes were asked for; the machine has no more");
  if (bytes >= kHugePage) madvise(block, rounded, MADV_HUGEPAGE);
  shelves_->held += rounded;
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

CpuStream::CpuStream(int threads, Tier tier)
    : tier_(tier),
      threads_(threads > 0 ? threads : usable_cores()),
      pool_(std::make_shared<Pool>()) {
  if (!machine_has(tier))
    fail("tier: ", name_of(tier), " was asked for; this machine's best is ", name_of(best_tier()));
}

}  // namespace samba
