#pragma once

#include <cstddef>

namespace samba::test {

/// The most bytes that operator new had given out at one time since this object was made, beyond
/// those at that moment. One at a time.
class Allocations {
 public:
  Allocations();
  std::size_t peak() const;

 private:
  long start_;
};

}  // namespace samba::test
