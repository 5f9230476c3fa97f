#include "kernels/comparison.h"

#include <gmock/gmock.h>

#include "core/error.h"
#include "kernels/run.h"
#include "support/compare.h"
#include "support/kernel_test.h"

namespace samba::test {
namespace {

using testing::HasSubstr;

/// y = 2 y + x on the processor, in place.
struct Twice {
  static constexpr const char* kName = "twice";

  Index unused = 0;
  View y;
  ConstView x;
  View left_out = {};

  DType dtype() const { return x.dtype; }
  void check() const {}
};

void compute(const Twice& op) {
  for (Index r = 0; r < op.y.rows; ++r)
    for (Index c = 0; c < op.y.cols; ++c)
      op.y.row<float>(r)[c] = 2 * op.y.row<float>(r)[c] + op.x.row<float>(r)[c];
}

template <Tier>
void run_on(CpuStream& /*stream*/, const Twice& op) {
  compute(op);
}

class Compared : public testing::Test {
 protected:
  /// What is said when the device's results are changed by `spoil` after it has run.
  std::string found(const std::function<void(View)>& spoil, DType dtype = DType::f32) {
    Stream stream(1);
    const Matrix y = matrix(stream, 1), x = matrix(stream, 2);
    Twice op{.y = y, .x = x};
    op.x.dtype = dtype;  // what the bound is chosen by
    try {
      run_compared(stream, op, [&] {
        op.x.dtype = DType::f32;
        compute(op);
        spoil(y);
      });
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  }

 private:
  static Matrix matrix(Stream& stream, int seed) {
    Matrix m(stream, DType::f32, 20, 30);
    const Host values = random(20, 30, DType::f32, seed);
    for (Index r = 0; r < 20; ++r)
      for (Index c = 0; c < 30; ++c) m.row<float>(r)[c] = static_cast<float>(values(r, c));
    return m;
  }
};

TEST_F(Compared, OpsThatWorkInPlaceBeginFromTheSameValues) {
  EXPECT_EQ(found([](View) {}), "");
}

TEST_F(Compared, RoundingsPass) {
  EXPECT_EQ(found([](View y) {
              for (Index c = 0; c < y.cols; ++c) y.row<float>(3)[c] *= 1 + 1e-6f;
            }),
            "");
}

TEST_F(Compared, AWrongRowIsNamed) {
  const std::string words = found([](View y) {
    for (Index c = 0; c < y.cols; ++c) y.row<float>(7)[c] = 0;
  });
  EXPECT_THAT(words, HasSubstr("self-test: twice on "));
  EXPECT_THAT(words, HasSubstr("in row 7 of its f32[20 x 30] (bound 0.0002)"));
}

TEST_F(Compared, AWrongElementAndANumberThatIsNoneAreFound) {
  EXPECT_THAT(found([](View y) { y.row<float>(2)[29] += 1; }),
              HasSubstr("row 2 of its f32[20 x 30]"));
  EXPECT_THAT(found([](View y) { y.row<float>(0)[4] = NAN; }), HasSubstr("row 0"));
}

TEST_F(Compared, AWrongColumnOfSmallValuesIsFound) {
  // A thousandth of each row, all of a column.
  Stream stream(1);
  Comparison comparison(stream);
  Matrix m(stream, DType::f32, 50, 400);
  for (Index r = 0; r < 50; ++r)
    for (Index c = 0; c < 400; ++c) m.row<float>(r)[c] = c == 9 ? 0.05f : 1;
  comparison.copy_of(m);
  for (Index r = 0; r < 50; ++r) m.row<float>(r)[9] = 0.2f;
  EXPECT_THROW(comparison.expect_equal("op", DType::bf16, m), Error);
}

TEST_F(Compared, WhatNeitherRunHasWrittenIsTheSame) {
  Stream stream(1);
  Comparison comparison(stream);
  Matrix m(stream, DType::f32, 2, 2);
  fill(m, NAN);
  const View copy = comparison.copy_of(m);
  EXPECT_EQ(comparison.copy_of(m).data, copy.data) << "one copy for one matrix";
  m.row<float>(1)[1] = copy.row<float>(1)[1] = 4;
  EXPECT_NO_THROW(comparison.expect_equal("op", DType::f32, m));
}

TEST_F(Compared, APartOfAMatrixIsAPartOfItsCopy) {
  Stream stream(1);
  Comparison comparison(stream);
  const Matrix m(stream, DType::f32, 6, 10);
  fill(m, 1);
  const View copy = comparison.copy_of(m.view().columns(2, 8)),
             part = comparison.copy_of(m.view().block(1, 4).columns(3, 2));
  comparison.copy_of(m.view().columns(0, 3));  // not all of it is in the first
  EXPECT_EQ(part.data, copy.block(1, 4).columns(1, 2).data);
  EXPECT_EQ(part.stride, copy.stride);
  part.row<float>(0)[0] = 2;
  EXPECT_THROW(comparison.expect_equal("op", DType::f32, m.view().columns(2, 8)), Error);
  EXPECT_THROW(comparison.expect_equal("op", DType::f32, m.view().block(1, 4).columns(3, 2)),
               Error);
  EXPECT_NO_THROW(comparison.expect_equal("op", DType::f32, m.view().columns(0, 3)));
}

TEST_F(Compared, WholeNumbersMustBeTheSame) {
  Stream stream(1);
  Comparison comparison(stream);
  Matrix ids(stream, DType::i32, 3, 1);
  for (Index r = 0; r < 3; ++r) *ids.row<std::int32_t>(r) = 31'000;
  comparison.copy_of(ids);
  EXPECT_NO_THROW(comparison.expect_equal("op", DType::f32, ids));
  *ids.row<std::int32_t>(1) = 31'001;
  EXPECT_THROW(comparison.expect_equal("op", DType::f32, ids), Error);
}

}  // namespace
}  // namespace samba::test
