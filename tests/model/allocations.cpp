#include "model/allocations.h"

#include <malloc.h>

#include <atomic>
#include <cstdlib>
#include <new>

namespace {

std::atomic<long> held = 0;
std::atomic<long> most = 0;

}  // namespace

void* operator new(std::size_t bytes) {
  void* memory = std::malloc(bytes == 0 ? 1 : bytes);
  if (memory == nullptr) throw std::bad_alloc();
  const long now = held += static_cast<long>(malloc_usable_size(memory));
  long before = most;
  while (before < now && !most.compare_exchange_weak(before, now)) {
  }
  return memory;
}

// Every form that the default delete may meet must be ours: sanitizers check the pairs.
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  try {
    return operator new(bytes);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

void operator delete(void* memory) noexcept {
  if (memory == nullptr) return;
  held -= static_cast<long>(malloc_usable_size(memory));
  std::free(memory);
}

void operator delete(void* memory, std::size_t) noexcept {
  operator delete(memory);
}

namespace samba::test {

Allocations::Allocations() : start_(held) {
  most = start_;
}

std::size_t Allocations::peak() const {
  return static_cast<std::size_t>(most - start_);
}

}  // namespace samba::test
