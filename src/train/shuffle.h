#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "core/dtype.h"

namespace samba {

/// A permutation of 0 .. count-1 that is computed element by element: a Feistel network of four
/// rounds over the next even power of two, walked along its cycle until it falls below count
/// (Black & Rogaway 2002, "Ciphers with Arbitrary Finite Domains").
class Permutation {
 public:
  /// count must be at least 1. Another key is another permutation.
  Permutation(Index count, std::uint64_t key);
  Index operator()(Index i) const;

 private:
  Index count_;
  std::uint64_t key_;
  unsigned half_bits_ = 1;
};

/// The shuffle of Python's `random.seed(seed); random.shuffle(x)`: entry i tells which element
/// comes to place i. Python seeds the Mersenne Twister (MT19937) with init_by_array.
std::vector<std::size_t> python_shuffle(std::size_t count, std::uint32_t seed);

/// NumPy's `default_rng(seed)`: PCG64 (O'Neill 2014, XSL-RR 128/64) seeded by SeedSequence.
class NumpyGenerator {
 public:
  explicit NumpyGenerator(std::uint64_t seed);
  /// `permutation(count)`; count below 2^32.
  std::vector<std::uint32_t> permutation(std::uint32_t count);

 private:
  struct Word128 {
    std::uint64_t high = 0, low = 0;
  };
  Word128 state_, increment_;
  std::uint32_t spare_ = 0;  ///< the upper half of the last 64-bit draw
  bool has_spare_ = false;

  void step();
  std::uint64_t next64();
  std::uint32_t next32();
};

}  // namespace samba
