#include "kernels/argmax.h"

#include <cmath>
#include <limits>

#include "core/error.h"
#include "kernels/run.h"
#include "support/kernel_test.h"
#include "support/shared.h"

namespace samba::test {
namespace {

class Argmax : public KernelTest {
 protected:
  std::vector<int> of(const Host& x) {
    const View y = ids(std::vector<int>(static_cast<std::size_t>(x.rows), -1));
    run(stream(), op::Argmax{.y = y, .x = upload(x, exact(), 3)});
    std::vector<int> columns;
    for (Index n = 0; n < x.rows; ++n) columns.push_back(*y.row<std::int32_t>(n));
    return columns;
  }
};
SAMBA_KERNEL_TEST(Argmax);

TEST_P(Argmax, FindsTheLargestElementOfEachRow) {
  for (const Index width : {1, 2, 31, 1025, 32000}) {
    const Host x = random(5, width, exact(), static_cast<int>(width));
    std::vector<int> expected;
    for (Index n = 0; n < x.rows; ++n) {
      int best = 0;
      for (Index i = 1; i < width; ++i)
        if (x(n, i) > x(n, best)) best = static_cast<int>(i);
      expected.push_back(best);
    }
    EXPECT_EQ(of(x), expected) << width;
  }
}

TEST_P(Argmax, TakesTheLowestAmongEqualsAndNoNan) {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN(),
                   kInfinity = std::numeric_limits<double>::infinity();
  Host x(4, 3000);
  for (Index i = 0; i < x.cols; ++i) {
    x(0, i) = i == 77 || i == 1500 || i == 2999 ? 2 : 1;
    x(1, i) = kNan;
    x(2, i) = i == 5 ? -1e30 : kNan;
    x(3, i) = i < 2000 ? -kInfinity : i == 2100 ? kInfinity : 0;
  }
  EXPECT_EQ(of(x), (std::vector<int>{77, 0, 5, 2100}));
}

TEST(ArgmaxCheck, RefusesWhatHasNoLargest) {
  Stream stream(1);
  const Matrix y(stream, DType::i32, 2, 1), x(stream, DType::bf16, 2, 3);
  const Matrix tall(stream, DType::f32, 3, 3);
  EXPECT_EQ(error_of([&] { run(stream, op::Argmax{.y = y, .x = x}); }),
            "argmax: x: expected f32 or f64 with at least one column, found bf16[2 x 3]");
  EXPECT_EQ(error_of([&] { run(stream, op::Argmax{.y = y, .x = tall}); }),
            "argmax: y: expected i32[3 x 1], found i32[2 x 1]");
}

}  // namespace
}  // namespace samba::test
