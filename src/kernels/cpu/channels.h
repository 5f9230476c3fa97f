#pragma once

#include <type_traits>

#include "kernels/cpu/simd_math.h"
#include "kernels/cpu/tier.h"

// Registers of neighbouring channels of a row, whose number is no multiple of the lanes.

namespace samba {
namespace {

/// The lanes of a row from p on, of which `left` channels exist; zeros beyond them.
template <class T>
[[gnu::always_inline]] inline Lanes<Exact<T>> load_left(const T* p, Index left) {
  using L = Lanes<Exact<T>>;
  return left >= L::kCount ? L::load(p) : L::load_first(p, left);
}

/// Writes the channels that exist.
template <class T>
[[gnu::always_inline]] inline void store_left(T* p, Index left, Lanes<Exact<T>> x) {
  if (left >= Lanes<Exact<T>>::kCount)
    x.store(p);
  else
    x.store_first(p, left);
}

/// One register's column of a matrix: the lanes from channel e on of one row after the other.
/// Kept apart from its view, it stays in registers of the machine while other rows are written.
template <class T>
struct Column {
  T* p;
  Index stride;
  Index left;

  using Element = std::remove_const_t<T>;

  [[gnu::always_inline]] Lanes<Exact<Element>> load(Index t) const {
    return load_left(p + t * stride, left);
  }
  [[gnu::always_inline]] void store(Index t, Lanes<Exact<Element>> x) const {
    store_left(p + t * stride, left, x);
  }
  /// The same without a question for each row, where `whole` is std::true_type.
  template <bool kWhole>
  [[gnu::always_inline]] Lanes<Exact<Element>> load(Index t, std::bool_constant<kWhole>) const {
    using L = Lanes<Exact<Element>>;
    return kWhole ? L::load(p + t * stride) : L::load_first(p + t * stride, left);
  }
  template <bool kWhole>
  [[gnu::always_inline]] void store(Index t, Lanes<Exact<Element>> x,
                                    std::bool_constant<kWhole>) const {
    if constexpr (kWhole)
      x.store(p + t * stride);
    else
      x.store_first(p + t * stride, left);
  }
};

/// Calls f(whole), with std::true_type where all lanes of the column's channels exist.
template <class T, class F>
[[gnu::always_inline]] inline void for_whole_or_left(const Column<T>& column, F&& f) {
  if (column.left >= Lanes<Exact<typename Column<T>::Element>>::kCount)
    f(std::true_type());
  else
    f(std::false_type());
}

/// The column from row `first` and channel e on.
template <class T>
[[gnu::always_inline]] inline Column<const T> column_of(ConstView x, Index first, Index e) {
  return {x.row<T>(first) + e, x.stride, x.cols - e};
}
template <class T>
[[gnu::always_inline]] inline Column<T> column_to(View x, Index first, Index e) {
  return {x.row<T>(first) + e, x.stride, x.cols - e};
}

/// The lanes from channel e on of a matrix of one row.
template <class R>
[[gnu::always_inline]] inline Lanes<R> load_parameter(ConstView x, Index e) {
  return load_left(x.row<R>(0) + e, x.cols - e);
}

}  // namespace
}  // namespace samba
