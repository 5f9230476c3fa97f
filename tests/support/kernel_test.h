#pragma once

#include <gtest/gtest.h>

#include <iosfwd>
#include <memory>
#include <string>
#include <vector>

#include "core/stream.h"
#include "support/compare.h"
#include "support/target.h"

namespace samba::test {

/// A test over `targets()`: instantiate with SAMBA_KERNEL_TEST(Suite).
class KernelTest : public testing::TestWithParam<Target> {
 protected:
  Stream& stream() { return stream_; }
  DType dtype() const { return GetParam().dtype; }
  /// f32, or f64 with f64: the type of norms, states and gradients of parameters.
  DType exact() const { return exact_of(dtype()); }

  /// A view of x as dtype, rows `gap` elements apart, surrounded by guard bytes that the end of the
  /// test checks. Lives until the test ends.
  View upload(const Host& x, DType dtype, Index gap = 0);
  View upload(const Host& x) { return upload(x, dtype()); }
  /// Token ids or targets as [N, 1] i32.
  View ids(const std::vector<int>& values);
  /// Elements that nobody has written: NaN, so that a kernel that reads them is found out.
  View empty(Index rows, Index cols, DType dtype, Index gap = 0);
  View empty(Index rows, Index cols) { return empty(rows, cols, dtype()); }
  View zeros(Index rows, Index cols, DType dtype);

  /// Skips the tests of a GPU where there is none.
  void SetUp() override;
  void TearDown() override;

 private:
  struct Guarded {
    Matrix memory;
    View view;
  };
  View guarded(Index rows, Index cols, DType dtype, Index gap);

  Stream stream_;
  std::vector<std::unique_ptr<Guarded>> guarded_;
};

/// Ends a test of sizes that a GPU's kernels are made for as skipped on all tiers but the fastest
/// here: their kernels know no such sizes, and one tier stands for the others.
#define SAMBA_SKIP_ON_SLOWER_TIERS()                                               \
  if (!GetParam().cuda && GetParam().tier != best_tier() && dtype() != DType::f64) \
  GTEST_SKIP() << "sizes of a GPU's kernels: on the fastest tier only"

#define SAMBA_KERNEL_TEST(Suite)                                                      \
  INSTANTIATE_TEST_SUITE_P(Tiers, Suite, testing::ValuesIn(::samba::test::targets()), \
                           ::samba::test::name_of_target)

}  // namespace samba::test
