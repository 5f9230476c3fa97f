#include "kernels/elementwise.h"

#include "core/error.h"
#include "kernels/run.h"
#include "support/kernel_test.h"

namespace samba::test {
namespace {

class Convert : public KernelTest {
 protected:
  /// The types on the other side of a conversion that this tier can compute.
  static std::vector<DType> others() {
    if (GetParam().tier == Tier::plain && !GetParam().cuda)
      return {DType::f64, DType::f32, DType::bf16};
    return {DType::f32, DType::bf16};
  }
};
SAMBA_KERNEL_TEST(Convert);

double rounded(double value, DType dtype) {
  if (dtype == DType::f32) return static_cast<float>(value);
  if (dtype == DType::bf16) return static_cast<float>(Bf16(static_cast<float>(value)));
  return value;
}

struct Shape {
  Index rows, cols, to_gap, from_gap;
};
constexpr Shape kShapes[] = {{1, 1, 0, 0},     {5, 33, 0, 0},   {5, 33, 3, 0},    {5, 33, 0, 3},
                             {1, 40001, 0, 0}, {3, 9001, 1, 2}, {1, 40000, 0, 0}, {7, 1024, 8, 16}};

TEST_P(Convert, RoundsOnceAndAddsWhereAsked) {
  for (const DType other : others())
    for (const bool add : {false, true})
      for (const auto& [rows, cols, to_gap, from_gap] : kShapes) {
        const Host from = random(rows, cols, dtype(), 1), before = random(rows, cols, other, 2);
        const View to = upload(before, other, to_gap);
        run(stream(), op::Convert{.to = to, .from = upload(from, dtype(), from_gap), .add = add});
        Host expected(rows, cols);
        for (std::size_t i = 0; i < from.values.size(); ++i) {
          const double sum = from.values[i] + (add ? before.values[i] : 0);
          // What is added in float is rounded to float before it is rounded to bf16.
          const bool in_f64 = dtype() == DType::f64 || other == DType::f64;
          expected.values[i] = rounded(in_f64 ? sum : static_cast<float>(sum), other);
        }
        expect_same(host(to), expected);
      }
}

TEST_P(Convert, RefusesOtherShapesAndIds) {
  const auto message = [&](View to, View from) {
    try {
      run(stream(), op::Convert{.to = to, .from = from});
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("nothing was thrown");
  };
  const std::string type = name_of(dtype());
  EXPECT_EQ(message(empty(2, 3), empty(3, 2)),
            "convert: from: expected " + type + "[2 x 3], found " + type + "[3 x 2]");
  EXPECT_EQ(message(empty(1, 1), ids({1})),
            "convert: from: expected f64, f32 or bf16, found i32[1 x 1]");
  EXPECT_EQ(message(View{}, empty(1, 1)), "convert: to: expected f64, f32 or bf16, found nothing");
}

}  // namespace
}  // namespace samba::test
