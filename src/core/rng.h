#pragma once

#include <array>
#include <cstdint>

namespace samba {

/// Ten rounds of Philox-4x32: a bijection of counters, keyed, whose outputs pass for random.
/// Salmon, Moraes, Dror & Shaw 2011, "Parallel Random Numbers: As Easy as 1, 2, 3", section 4.3.
constexpr std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter,
                                              std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xd2511f53} * counter[0];
    const std::uint64_t b = std::uint64_t{0xcd9e8d57} * counter[2];
    counter = {
        static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(b),
        static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(a)};
    key[0] += 0x9e3779b9;
    key[1] += 0xbb67ae85;
  }
  return counter;
}

/// Random numbers by index instead of in turn: number i of a seed and a stream is the same whoever
/// asks, in whatever order, on any machine and any number of threads. Streams of a seed are
/// independent of each other. The numbers that the functions give for one index are not
/// independent: take another stream, or another index, for another purpose.
struct Rng {
  std::uint64_t seed = 0;
  std::uint32_t stream = 0;

  /// Four words of 32 random bits. `attempt` is for algorithms that throw numbers away.
  constexpr std::array<std::uint32_t, 4> words(std::uint64_t index,
                                               std::uint32_t attempt = 0) const {
    return philox({static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32),
                   stream, attempt},
                  {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
  }
  /// 64 random bits.
  constexpr std::uint64_t bits(std::uint64_t index) const {
    const auto w = words(index);
    return std::uint64_t{w[1]} << 32 | w[0];
  }
  /// In [0, 1), a multiple of 2^-53.
  constexpr double uniform(std::uint64_t index) const {
    return static_cast<double>(bits(index) >> 11) * 0x1p-53;
  }
  /// In [0, bound), bound at least 1. No value is more probable than another by over 2^-64.
  constexpr std::uint64_t below(std::uint64_t bound, std::uint64_t index) const {
    // The upper 64 bits of bits * bound, which no standard type holds.
    const std::uint64_t value = bits(index);
    const std::uint64_t low = (value & 0xffffffff) * (bound & 0xffffffff);
    const std::uint64_t middle = (value >> 32) * (bound & 0xffffffff) + (low >> 32);
    const std::uint64_t other = (value & 0xffffffff) * (bound >> 32) + (middle & 0xffffffff);
    return (value >> 32) * (bound >> 32) + (middle >> 32) + (other >> 32);
  }
  /// Of mean 0 and deviation 1. Marsaglia & Bray 1964, "A Convenient Method for Generating Normal
  /// Variables" (the polar method).
  double normal(std::uint64_t index) const;
};

}  // namespace samba
