#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace samba {

/// FNV-1a, 64 bits (Fowler, Noll, Vo): tells contents apart by accident, not against an attacker.
constexpr std::uint64_t fnv1a(std::string_view bytes) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const char byte : bytes) hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001b3u;
  return hash;
}

/// Spreads every bit of x over all 64; the finalizer of SplitMix64 (Steele et al. 2014).
constexpr std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

/// 16 hexadecimal digits.
inline std::string hex(std::uint64_t x) {
  std::string digits(16, '0');
  for (std::size_t i = 0; i < 16; ++i) digits[15 - i] = "0123456789abcdef"[(x >> (4 * i)) & 15];
  return digits;
}

}  // namespace samba
