#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "core/dtype.h"

namespace samba {

/// Element types that weight files hold. Values are little endian, as is every machine we run on.
enum class StoredType : std::uint8_t {
  boolean,
  u8,
  i8,
  f8_e5m2,
  f8_e4m3,
  i16,
  u16,
  f16,
  bf16,
  i32,
  u32,
  f32,
  f64,
  i64,
  u64
};

Index size_of(StoredType);
/// The name in safetensors headers: "BOOL", "F8_E5M2", "BF16", ...
const char* name_of(StoredType);
/// The type of that name in safetensors headers, if there is one.
std::optional<StoredType> stored_type_of(std::string_view name);
/// The type that holds a matrix of this dtype without loss.
StoredType stored_type_of(DType);

/// Whether convert() knows the pair: F64, F32, F16 and BF16 to f64, f32 and bf16; BOOL and the
/// integers to i32.
bool convertible(StoredType from, DType to);

/// Converts `count` elements that lie one after the other at any address. Floats are rounded to
/// nearest even. False: an integer is outside of i32; what was written then means nothing.
bool convert(StoredType from_type, const std::byte* from, DType to_type, std::byte* to,
             Index count);

}  // namespace samba
