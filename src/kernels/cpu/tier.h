#pragma once

#include <type_traits>

#include "core/dtype.h"
#include "core/stream.h"

// Included by the sources of this folder only. The build compiles each of them once per tier, with
// SAMBA_TIER naming it and the compiler's flags allowing its instructions. Everything that such a
// source defines beside run_on lies in an unnamed namespace: two tiers must never share a symbol.

namespace samba {
namespace {

constexpr Tier kTier = Tier::SAMBA_TIER;

/// Calls f.template operator()<T>() with the type of the dtype. f64 exists in the plain tier only.
template <class F>
void visit_float(DType dtype, F&& f) {
  if constexpr (kTier == Tier::plain) {
    if (dtype == DType::f64) return f.template operator()<double>();
  }
  if (dtype == DType::bf16) return f.template operator()<Bf16>();
  return f.template operator()<float>();
}

/// Element access that computes in Exact<T>: a bf16 is widened when read and rounded when written.
template <class T>
[[gnu::always_inline]] inline Exact<T> get(const T& x) {
  if constexpr (std::is_same_v<T, Bf16>)
    return static_cast<float>(x);
  else
    return x;
}

template <class T>
[[gnu::always_inline]] inline void put(T& x, Exact<T> value) {
  if constexpr (std::is_same_v<T, Bf16>)
    x = Bf16(value);
  else
    x = value;
}

}  // namespace
}  // namespace samba
