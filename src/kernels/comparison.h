#pragma once

#include <list>

#include "core/matrix.h"
#include "core/stream.h"

namespace samba {

/// What an op reads and writes on a stream's device, copied to the machine's memory for a second
/// run on the processor.
class Comparison {
 public:
  explicit Comparison(Stream& stream) : stream_(stream) {}

  /// The copy that stands for the device's matrix, or its part of the copy of a larger one; made
  /// when it is first asked for: an op that works in place finds one copy for both names. Nothing
  /// stands for nothing.
  View copy_of(ConstView);
  /// After both runs: throws an Error that names the op, the device and what differs unless the
  /// device's matrix equals its copy. Of each row and each column the error's norm may be a share
  /// of the norm expected, or of the mean row's or column's where that is more: 3e-2 where the op
  /// or the matrix is of bf16, else 2e-4, verify's bounds. Whole numbers must be the same.
  void expect_equal(const char* op, DType, ConstView) const;

 private:
  struct Copy {
    ConstView original;
    Matrix matrix;
  };
  /// The view's part of the first copy that holds all of it, or nothing.
  View find(ConstView) const;

  Stream& stream_;
  std::list<Copy> copies_;
};

}  // namespace samba
