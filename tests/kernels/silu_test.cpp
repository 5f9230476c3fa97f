#include "kernels/silu.h"

#include "core/error.h"
#include "kernels/run.h"
#include "support/gradient.h"
#include "support/kernel_test.h"
#include "support/reference.h"

namespace samba::test {
namespace {

constexpr Index kOperations = 4;  // one after the other; each rounds as a term of a sum does

class Silu : public KernelTest {};
SAMBA_KERNEL_TEST(Silu);

TEST_P(Silu, MatchesTheDefinition) {
  for (const Index width : {1, 31, 128, 5000}) {
    const Host x = random(5, width, dtype(), 1, 3);
    Host expected = x;
    for (double& value : expected.values) value = reference::silu(value);
    const View y = empty(5, width, dtype(), 3);
    run(stream(), op::Silu{.y = y, .x = upload(x, dtype(), 2)});
    expect_close(host(y), expected, dtype(), kOperations);
    const View in_place = upload(x);
    run(stream(), op::Silu{.y = in_place, .x = in_place});
    expect_same(host(in_place), host(y));
    // Without gaps some widths are read by vectors, with the same bits.
    const View dense = empty(5, width);
    run(stream(), op::Silu{.y = dense, .x = upload(x)});
    expect_same(host(dense), host(y));
  }
}

TEST_P(Silu, BackwardMatchesFloat64) {
  Stream plain(1, Tier::plain);
  const Host x = random(5, 37, dtype(), 1, 3), dy = random(5, 37, dtype(), 2);
  const View dx = empty(5, 37), dx64 = empty(5, 37, DType::f64);
  run(stream(), op::SiluBackward{.dx = dx, .dy = upload(dy), .x = upload(x)});
  run(plain,
      op::SiluBackward{.dx = dx64, .dy = upload(dy, DType::f64), .x = upload(x, DType::f64)});
  expect_close(host(dx), host(dx64), dtype(), kOperations);
  const View in_place = upload(dy);
  run(stream(), op::SiluBackward{.dx = in_place, .dy = in_place, .x = upload(x)});
  expect_same(host(in_place), host(dx));
  EXPECT_THROW(run(stream(), op::Silu{.y = empty(5, 36), .x = upload(x)}), Error);
}

TEST(SiluBackward, MatchesFiniteDifferences) {
  Stream plain(1, Tier::plain);
  const Matrix x(plain, DType::f64, 3, 5), y(plain, DType::f64, 3, 5), dx(plain, DType::f64, 3, 5);
  const Matrix dy(plain, DType::f64, 3, 5);
  const auto set = [](View v, const Host& values) {
    for (Index r = 0; r < v.rows; ++r)
      for (Index c = 0; c < v.cols; ++c) v.row<double>(r)[c] = values(r, c);
  };
  set(x, random(3, 5, DType::f64, 1));
  set(dy, random(3, 5, DType::f64, 2));
  run(plain, op::SiluBackward{.dx = dx, .dy = dy, .x = x});
  expect_gradient(x, host(dx), [&] {
    run(plain, op::Silu{.y = y, .x = x});
    return dot(host(dy), host(y));
  });
}

}  // namespace
}  // namespace samba::test
