#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace samba {

/// Sizes, counts and positions. Never `int`: a context of 1M tokens times a width overflows it.
using Index = std::int64_t;

/// The upper half of an IEEE binary32; storage only, arithmetic happens in float.
struct Bf16 {
  std::uint16_t bits = 0;

  Bf16() = default;
  /// Rounds to the nearest, ties to even; a NaN stays a NaN.
  [[gnu::always_inline]] constexpr explicit Bf16(float value) {
    const auto u = std::bit_cast<std::uint32_t>(value);
    const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
    bits = nan ? static_cast<std::uint16_t>((u >> 16) | 0x40u)
               : static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  [[gnu::always_inline]] constexpr explicit operator float() const {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }
};

/// Element types of matrices. Kernels compute on f64 (CPU only), f32 and bf16; i32 holds token ids.
enum class DType : std::uint8_t { f64, f32, bf16, i32 };

constexpr Index size_of(DType dtype) {
  switch (dtype) {
    case DType::f64: return 8;
    case DType::f32: return 4;
    case DType::bf16: return 2;
    case DType::i32: return 4;
  }
  return 0;
}

constexpr const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::f64: return "f64";
    case DType::f32: return "f32";
    case DType::bf16: return "bf16";
    case DType::i32: return "i32";
  }
  return "?";
}

/// The DType of a C++ element type.
template <class T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, double>) return DType::f64;
  if constexpr (std::is_same_v<T, float>) return DType::f32;
  if constexpr (std::is_same_v<T, Bf16>) return DType::bf16;
  if constexpr (std::is_same_v<T, std::int32_t>) return DType::i32;
}

/// The type that sums over T are kept in, and that states, norms, losses and gradients of
/// parameters have beside activations of type T: double for double, else float.
template <class T>
using Exact = std::conditional_t<std::is_same_v<T, double>, double, float>;

/// Exact as a DType.
constexpr DType exact_of(DType dtype) {
  return dtype == DType::f64 ? DType::f64 : DType::f32;
}

/// Half a unit in the last place of 1, the largest relative error of one rounding.
constexpr double unit_roundoff(DType dtype) {
  switch (dtype) {
    case DType::f64: return 0x1p-53;
    case DType::f32: return 0x1p-24;
    case DType::bf16: return 0x1p-8;
    case DType::i32: return 0;
  }
  return 0;
}

}  // namespace samba
