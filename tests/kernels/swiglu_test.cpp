#include "kernels/swiglu.h"

#include "kernels/run.h"
#include "support/gradient.h"
#include "support/kernel_test.h"
#include "support/reference.h"

namespace samba::test {
namespace {

class SwiGlu : public KernelTest {};
SAMBA_KERNEL_TEST(SwiGlu);

TEST_P(SwiGlu, MatchesTheDefinition) {
  for (const Index width : {1, 31, 128, 1000}) {
    const Host gate = random(5, width, dtype(), 1, 3), up = random(5, width, dtype(), 2);
    const View y = empty(5, width, dtype(), 3);
    run(stream(), op::SwiGlu{.y = y, .gate = upload(gate), .up = upload(up)});
    expect_close(host(y), reference::swiglu(gate, up), dtype(), 1);
    // Without gaps some widths are read by vectors, with the same bits.
    const View dense = empty(5, width);
    run(stream(), op::SwiGlu{.y = dense, .gate = upload(gate), .up = upload(up)});
    expect_same(host(dense), host(y));
  }
}

TEST_P(SwiGlu, BackwardMatchesFloat64) {
  Stream plain(1, Tier::plain);
  for (const Index width : {37, 64}) {
    const Host gate = random(5, width, dtype(), 1, 3), up = random(5, width, dtype(), 2);
    const Host dy = random(5, width, dtype(), 3);
    const View dgate = empty(5, width), dup = empty(5, width), y = empty(5, width);
    const View in_place = upload(dy);
    run(stream(),
        op::SwiGluBackward{
            .dgate = dgate, .dup = dup, .dy = upload(dy), .gate = upload(gate), .up = upload(up)});
    run(stream(), op::SwiGluBackward{.dgate = empty(5, width),
                                     .dup = empty(5, width),
                                     .y = in_place,
                                     .dy = in_place,
                                     .gate = upload(gate),
                                     .up = upload(up)});
    run(stream(), op::SwiGlu{.y = y, .gate = upload(gate), .up = upload(up)});
    expect_same(host(in_place), host(y));
    const View dgate64 = empty(5, width, DType::f64), dup64 = empty(5, width, DType::f64);
    run(plain, op::SwiGluBackward{.dgate = dgate64,
                                  .dup = dup64,
                                  .dy = upload(dy, DType::f64),
                                  .gate = upload(gate, DType::f64),
                                  .up = upload(up, DType::f64)});
    expect_close(host(dgate), host(dgate64), dtype(), 1);
    expect_close(host(dup), host(dup64), dtype(), 1);
  }
}

TEST(SwiGluBackward, MatchesFiniteDifferences) {
  Stream plain(1, Tier::plain);
  Matrix gate(plain, DType::f64, 3, 5), up(plain, DType::f64, 3, 5), y(plain, DType::f64, 3, 5);
  Matrix dgate(plain, DType::f64, 3, 5), dup(plain, DType::f64, 3, 5), dy(plain, DType::f64, 3, 5);
  auto set = [](View v, const Host& x) {
    for (Index r = 0; r < x.rows; ++r)
      for (Index c = 0; c < x.cols; ++c) v.row<double>(r)[c] = x(r, c);
  };
  set(gate, random(3, 5, DType::f64, 1));
  set(up, random(3, 5, DType::f64, 2));
  set(dy, random(3, 5, DType::f64, 3));
  run(plain, op::SwiGluBackward{.dgate = dgate, .dup = dup, .dy = dy, .gate = gate, .up = up});
  const auto loss = [&] {
    run(plain, op::SwiGlu{.y = y, .gate = gate, .up = up});
    return dot(host(dy), host(y));
  };
  expect_gradient(gate, host(dgate), loss);
  expect_gradient(up, host(dup), loss);
}

}  // namespace
}  // namespace samba::test
