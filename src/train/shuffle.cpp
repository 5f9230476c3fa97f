#include "train/shuffle.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <utility>

#include "core/hash.h"

namespace samba {
namespace {

constexpr int kRounds = 4;
constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15u;

/// The mixing of O'Neill's seed_seq_fe over a pool of four words, as NumPy's SeedSequence does it.
class SeedSequence {
 public:
  explicit SeedSequence(std::uint64_t seed) {
    std::array<std::uint32_t, 4> entropy{static_cast<std::uint32_t>(seed),
                                         static_cast<std::uint32_t>(seed >> 32)};
    for (std::size_t i = 0; i < 4; ++i) pool_[i] = hash(entropy[i]);
    for (std::size_t from = 0; from < 4; ++from)
      for (std::size_t to = 0; to < 4; ++to)
        if (from != to) pool_[to] = merge(pool_[to], hash(pool_[from]));
  }

  /// Eight words of 32 bits as four of 64, low half first.
  std::array<std::uint64_t, 4> state() const {
    std::array<std::uint64_t, 4> words{};
    std::uint32_t constant = 0x8b51f9ddu;
    for (std::size_t i = 0; i < 8; ++i) {
      std::uint32_t value = pool_[i % 4] ^ constant;
      constant *= 0x58f38dedu;
      value *= constant;
      value ^= value >> 16;
      words[i / 2] |= static_cast<std::uint64_t>(value) << (32 * (i % 2));
    }
    return words;
  }

 private:
  std::array<std::uint32_t, 4> pool_{};
  std::uint32_t constant_ = 0x43b0d7e5u;

  std::uint32_t hash(std::uint32_t value) {
    value ^= constant_;
    constant_ *= 0x931e8875u;
    value *= constant_;
    return value ^ (value >> 16);
  }

  static std::uint32_t merge(std::uint32_t x, std::uint32_t y) {
    const std::uint32_t value = x * 0xca01f9ddu - y * 0x4973f715u;
    return value ^ (value >> 16);
  }
};

/// The low 128 bits of a product of 64-bit numbers, as (high, low).
std::pair<std::uint64_t, std::uint64_t> multiply(std::uint64_t a, std::uint64_t b) {
  const std::uint64_t a0 = a & 0xffffffffu, a1 = a >> 32, b0 = b & 0xffffffffu, b1 = b >> 32;
  const std::uint64_t low = a0 * b0, middle = a1 * b0 + (low >> 32);
  const std::uint64_t cross = a0 * b1 + (middle & 0xffffffffu);
  return {a1 * b1 + (middle >> 32) + (cross >> 32), (cross << 32) | (low & 0xffffffffu)};
}

}  // namespace

Permutation::Permutation(Index count, std::uint64_t key) : count_(count), key_(key) {
  const auto bits = static_cast<unsigned>(std::bit_width(static_cast<std::uint64_t>(count - 1)));
  half_bits_ = std::max(1u, (bits + 1) / 2);
}

Index Permutation::operator()(Index i) const {
  const std::uint64_t mask = (std::uint64_t{1} << half_bits_) - 1;
  auto x = static_cast<std::uint64_t>(i);
  do {
    std::uint64_t left = x >> half_bits_, right = x & mask;
    for (int round = 0; round < kRounds; ++round) {
      const std::uint64_t keyed = key_ + kGolden * static_cast<std::uint64_t>(round + 1);
      left ^= mix(mix(keyed) ^ right) & mask;
      std::swap(left, right);
    }
    x = left << half_bits_ | right;
  } while (x >= static_cast<std::uint64_t>(count_));
  return static_cast<Index>(x);
}

std::vector<std::size_t> python_shuffle(std::size_t count, std::uint32_t seed) {
  // init_by_array of Matsumoto & Nishimura's mt19937ar with a key of one word.
  constexpr std::size_t kWords = 624;
  std::array<std::uint32_t, kWords> words;
  words[0] = 19650218u;
  for (std::uint32_t i = 1; i < kWords; ++i)
    words[i] = 1812433253u * (words[i - 1] ^ (words[i - 1] >> 30)) + i;
  std::uint32_t i = 1;
  const auto advance = [&] {
    if (++i < kWords) return;
    words[0] = words[kWords - 1];
    i = 1;
  };
  for (std::size_t k = 0; k < kWords; ++k, advance())
    words[i] = (words[i] ^ ((words[i - 1] ^ (words[i - 1] >> 30)) * 1664525u)) + seed;
  for (std::size_t k = 1; k < kWords; ++k, advance())
    words[i] = (words[i] ^ ((words[i - 1] ^ (words[i - 1] >> 30)) * 1566083941u)) - i;
  words[0] = 0x80000000u;

  std::size_t drawn = kWords;
  const auto draw = [&] {
    if (drawn == kWords) {
      for (std::size_t n = 0; n < kWords; ++n) {
        const std::uint32_t y = (words[n] & 0x80000000u) | (words[(n + 1) % kWords] & 0x7fffffffu);
        words[n] = words[(n + 397) % kWords] ^ (y >> 1) ^ ((y & 1) != 0 ? 0x9908b0dfu : 0u);
      }
      drawn = 0;
    }
    std::uint32_t y = words[drawn++];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
  };

  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), std::size_t{0});
  for (std::size_t last = count; last-- > 1;) {
    // A number below last + 1: as many upper bits as that has, drawn until they are below it.
    const auto bits = static_cast<unsigned>(std::bit_width(last + 1));
    std::size_t j;
    do j = draw() >> (32 - bits);
    while (j > last);
    std::swap(order[last], order[j]);
  }
  return order;
}

NumpyGenerator::NumpyGenerator(std::uint64_t seed) {
  const auto words = SeedSequence(seed).state();
  increment_ = {words[2] << 1 | words[3] >> 63, words[3] << 1 | 1};
  step();
  state_.low += words[1];
  state_.high += words[0] + (state_.low < words[1] ? 1 : 0);
  step();
}

void NumpyGenerator::step() {
  constexpr std::uint64_t kHigh = 2549297995355413924u, kLow = 4865540595714422341u;
  auto [high, low] = multiply(state_.low, kLow);
  high += state_.high * kLow + state_.low * kHigh;
  low += increment_.low;
  high += increment_.high + (low < increment_.low ? 1 : 0);
  state_ = {high, low};
}

std::uint64_t NumpyGenerator::next64() {
  step();
  return std::rotr(state_.high ^ state_.low, static_cast<int>(state_.high >> 58));
}

std::uint32_t NumpyGenerator::next32() {
  if (has_spare_) {
    has_spare_ = false;
    return spare_;
  }
  const std::uint64_t both = next64();
  spare_ = static_cast<std::uint32_t>(both >> 32);
  has_spare_ = true;
  return static_cast<std::uint32_t>(both);
}

std::vector<std::uint32_t> NumpyGenerator::permutation(std::uint32_t count) {
  std::vector<std::uint32_t> order(count);
  std::iota(order.begin(), order.end(), 0u);
  for (std::uint32_t last = count; last-- > 1;) {
    const std::uint32_t mask = ~std::uint32_t{0} >> std::countl_zero(last);
    std::uint32_t j;
    do j = next32() & mask;
    while (j > last);
    std::swap(order[last], order[j]);
  }
  return order;
}

}  // namespace samba
