#pragma once

#include <cstddef>
#include <type_traits>
#include <utility>

namespace samba {

/// Stands for a value of any type while members are counted; never made.
struct AnyMember {
  template <class T>
  operator T() const;  // NOLINT(google-explicit-constructor): that is its use
};

template <class T, std::size_t... i>
constexpr bool takes_members(std::index_sequence<i...>) {
  return requires { T{(static_cast<void>(i), AnyMember{})...}; };
}

/// The number of members of an aggregate: as many initializers as it takes.
template <class T, std::size_t most = 24>
constexpr std::size_t member_count() {
  if constexpr (takes_members<T>(std::make_index_sequence<most>()))
    return most;
  else
    return member_count<T, most - 1>();
}

/// each(members...) of an aggregate of `count` members, at most 12.
template <std::size_t count, class T, class F>
void with_few_members(T& value, const F& each) {
  if constexpr (count == 1) {
    auto& [a] = value;
    return each(a);
  }
  if constexpr (count == 2) {
    auto& [a, b] = value;
    return each(a, b);
  }
  if constexpr (count == 3) {
    auto& [a, b, c] = value;
    return each(a, b, c);
  }
  if constexpr (count == 4) {
    auto& [a, b, c, d] = value;
    return each(a, b, c, d);
  }
  if constexpr (count == 5) {
    auto& [a, b, c, d, e] = value;
    return each(a, b, c, d, e);
  }
  if constexpr (count == 6) {
    auto& [a, b, c, d, e, f] = value;
    return each(a, b, c, d, e, f);
  }
  if constexpr (count == 7) {
    auto& [a, b, c, d, e, f, g] = value;
    return each(a, b, c, d, e, f, g);
  }
  if constexpr (count == 8) {
    auto& [a, b, c, d, e, f, g, h] = value;
    return each(a, b, c, d, e, f, g, h);
  }
  if constexpr (count == 9) {
    auto& [a, b, c, d, e, f, g, h, i] = value;
    return each(a, b, c, d, e, f, g, h, i);
  }
  if constexpr (count == 10) {
    auto& [a, b, c, d, e, f, g, h, i, j] = value;
    return each(a, b, c, d, e, f, g, h, i, j);
  }
  if constexpr (count == 11) {
    auto& [a, b, c, d, e, f, g, h, i, j, k] = value;
    return each(a, b, c, d, e, f, g, h, i, j, k);
  }
  if constexpr (count == 12) {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l] = value;
    return each(a, b, c, d, e, f, g, h, i, j, k, l);
  }
}

/// The same for 13 to 24.
template <std::size_t count, class T, class F>
void with_many_members(T& value, const F& each) {
  if constexpr (count == 13) {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l, m] = value;
    return each(a, b, c, d, e, f, g, h, i, j, k, l, m);
  }
  if constexpr (count == 14) {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n] = value;
    return each(a, b, c, d, e, f, g, h, i, j, k, l, m, n);
  }
  if constexpr (count == 15) {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o] = value;
    return each(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o);
  }
  if constexpr (count == 16) {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = value;
    return each(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p);
  }
  if constexpr (count == 17) {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q] = value;
    return each(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q);
  }
  if constexpr (count == 18) {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r] = value;
    return each(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r);
  }
  if constexpr (count == 19) {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s] = value;
    return each(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s);
  }
  if constexpr (count == 20) {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t] = value;
    return each(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t);
  }
  if constexpr (count == 21) {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u] = value;
    return each(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u);
  }
  if constexpr (count == 22) {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v] = value;
    return each(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v);
  }
  if constexpr (count == 23) {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v, w] = value;
    return each(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v, w);
  }
  if constexpr (count == 24) {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v, w, x] = value;
    return each(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v, w, x);
  }
}

/// Calls call(member) for each member of an aggregate of at most 24, in order.
template <class T, class F>
void for_each_member(T& value, const F& call) {
  constexpr std::size_t kCount = member_count<std::remove_const_t<T>>();
  static_assert(!takes_members<std::remove_const_t<T>>(std::make_index_sequence<25>()),
                "write down a longer binding");
  const auto each = [&call](auto&... members) { (call(members), ...); };
  if constexpr (kCount <= 12)
    with_few_members<kCount>(value, each);
  else
    with_many_members<kCount>(value, each);
}

}  // namespace samba
