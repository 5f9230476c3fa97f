#include "model/stored_type.h"

#include <bit>
#include <cassert>
#include <cstring>
#include <limits>

namespace samba {
namespace {

static_assert(std::endian::native == std::endian::little);

struct TypeRow {
  StoredType type;
  const char* name;
  Index size;
};

constexpr TypeRow kTypes[] = {
    {StoredType::boolean, "BOOL", 1},    {StoredType::u8, "U8", 1},
    {StoredType::i8, "I8", 1},           {StoredType::f8_e5m2, "F8_E5M2", 1},
    {StoredType::f8_e4m3, "F8_E4M3", 1}, {StoredType::i16, "I16", 2},
    {StoredType::u16, "U16", 2},         {StoredType::f16, "F16", 2},
    {StoredType::bf16, "BF16", 2},       {StoredType::i32, "I32", 4},
    {StoredType::u32, "U32", 4},         {StoredType::f32, "F32", 4},
    {StoredType::f64, "F64", 8},         {StoredType::i64, "I64", 8},
    {StoredType::u64, "U64", 8},
};

const TypeRow& row_of(StoredType type) {
  return kTypes[static_cast<std::size_t>(type)];
}

struct Half {
  std::uint16_t bits;
};

// Branch-free, so that the compiler can vectorise it, and without denormal arithmetic, so that a
// thread that flushes denormals reads the same values.
float widen(Half half) {
  const std::uint32_t magnitude = half.bits & 0x7fffu;
  const std::uint32_t sign = static_cast<std::uint32_t>(half.bits & 0x8000u) << 16;
  // A denormal m * 2^-24 is (2^-14 + m * 2^-24) - 2^-14.
  const float tiny = std::bit_cast<float>(0x38800000u + (magnitude << 13)) - 0x1p-14f;
  const std::uint32_t exponent_shift = magnitude >= 0x7c00u ? 224u << 23 : 112u << 23;
  const std::uint32_t normal = (magnitude << 13) + exponent_shift;
  const std::uint32_t bits = magnitude < 0x400u ? std::bit_cast<std::uint32_t>(tiny) : normal;
  return std::bit_cast<float>(bits | sign);
}

float widen(Bf16 value) {
  return static_cast<float>(value);
}
float widen(float value) {
  return value;
}
double widen(double value) {
  return value;
}

// The bits of Bf16(value), by masks instead of its branch: with that the compiler does not
// vectorise the loop below.
template <class To, class Wide>
auto narrow(Wide value) {
  if constexpr (std::is_same_v<To, Bf16>) {
    const auto u = std::bit_cast<std::uint32_t>(static_cast<float>(value));
    const std::uint32_t quiet = (u & 0x7fffffffu) > 0x7f800000u ? 0x400000u : 0;
    const std::uint32_t round = quiet != 0 ? 0 : 0x7fffu + ((u >> 16) & 1u);
    return static_cast<std::uint16_t>(((u | quiet) + round) >> 16);
  } else {
    return static_cast<To>(value);
  }
}

template <class From, class To>
void convert_floats(const std::byte* from, std::byte* to, Index count) {
  if constexpr (std::is_same_v<From, To>) {
    std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(To));
    return;
  }
#pragma omp simd
  for (Index i = 0; i < count; ++i) {
    From x;
    std::memcpy(&x, from + i * static_cast<Index>(sizeof(From)), sizeof(From));
    const auto y = narrow<To>(widen(x));
    std::memcpy(to + i * static_cast<Index>(sizeof(To)), &y, sizeof(To));
  }
}

template <class To>
void convert_to(StoredType type, const std::byte* from, std::byte* to, Index count) {
  switch (type) {
    case StoredType::f64: return convert_floats<double, To>(from, to, count);
    case StoredType::f32: return convert_floats<float, To>(from, to, count);
    case StoredType::f16: return convert_floats<Half, To>(from, to, count);
    case StoredType::bf16: return convert_floats<Bf16, To>(from, to, count);
    default: assert(false);
  }
}

template <class From>
bool convert_integers(const std::byte* from, std::byte* to, Index count) {
  using Limits = std::numeric_limits<std::int32_t>;
  int outside = 0;
  for (Index i = 0; i < count; ++i) {
    From x{};
    std::memcpy(&x, from + i * static_cast<Index>(sizeof(From)), sizeof(From));
    const auto y = static_cast<std::int32_t>(x);  // NOLINT(bugprone-signed-char-misuse): a number
    if constexpr (std::is_unsigned_v<From>)
      outside |= static_cast<std::uint64_t>(x) > static_cast<std::uint64_t>(Limits::max());
    else
      outside |= static_cast<std::int64_t>(x) != static_cast<std::int64_t>(y);
    std::memcpy(to + i * static_cast<Index>(sizeof(y)), &y, sizeof(y));
  }
  return outside == 0;
}

bool convert_to_i32(StoredType type, const std::byte* from, std::byte* to, Index count) {
  switch (type) {
    case StoredType::boolean:
    case StoredType::u8: return convert_integers<std::uint8_t>(from, to, count);
    case StoredType::i8: return convert_integers<std::int8_t>(from, to, count);
    case StoredType::i16: return convert_integers<std::int16_t>(from, to, count);
    case StoredType::u16: return convert_integers<std::uint16_t>(from, to, count);
    case StoredType::i32: return convert_integers<std::int32_t>(from, to, count);
    case StoredType::u32: return convert_integers<std::uint32_t>(from, to, count);
    case StoredType::i64: return convert_integers<std::int64_t>(from, to, count);
    case StoredType::u64: return convert_integers<std::uint64_t>(from, to, count);
    default: assert(false); return false;
  }
}

}  // namespace

Index size_of(StoredType type) {
  return row_of(type).size;
}

const char* name_of(StoredType type) {
  return row_of(type).name;
}

std::optional<StoredType> stored_type_of(std::string_view name) {
  for (const TypeRow& row : kTypes)
    if (name == row.name) return row.type;
  return std::nullopt;
}

StoredType stored_type_of(DType dtype) {
  switch (dtype) {
    case DType::f64: return StoredType::f64;
    case DType::f32: return StoredType::f32;
    case DType::bf16: return StoredType::bf16;
    case DType::i32: return StoredType::i32;
  }
  return StoredType::f32;
}

bool convertible(StoredType from, DType to) {
  switch (from) {
    case StoredType::f8_e5m2:
    case StoredType::f8_e4m3: return false;
    case StoredType::f64:
    case StoredType::f32:
    case StoredType::f16:
    case StoredType::bf16: return to != DType::i32;
    default: return to == DType::i32;
  }
}

bool convert(StoredType from_type, const std::byte* from, DType to_type, std::byte* to,
             Index count) {
  switch (to_type) {
    case DType::f64: convert_to<double>(from_type, from, to, count); return true;
    case DType::f32: convert_to<float>(from_type, from, to, count); return true;
    case DType::bf16: convert_to<Bf16>(from_type, from, to, count); return true;
    case DType::i32: return convert_to_i32(from_type, from, to, count);
  }
  return false;
}

}  // namespace samba
