#include "kernels/rope.h"

#include "core/error.h"
#include "kernels/run.h"
#include "support/kernel_test.h"
#include "support/reference.h"

namespace samba::test {
namespace {

class Rope : public KernelTest {
 protected:
  Host rotated(const Host& x, Index heads, double base, const std::vector<Span>& spans,
               bool inverse = false, Index gap = 3) {
    const View y = upload(x, dtype(), gap);
    run(stream(),
        op::Rope{
            .x = y, .heads = heads, .base = base, .inverse = inverse, .batch = batch_of(spans)});
    return host(y);
  }
};
SAMBA_KERNEL_TEST(Rope);

TEST_P(Rope, MatchesTheDefinition) {
  for (const auto& [heads, width] :
       {std::pair<Index, Index>{1, 2}, {3, 16}, {2, 24}, {2, 64}, {1, 130}, {1, 600}}) {
    const Host x = random(70, heads * width, dtype(), 1);
    const std::vector<Span> spans = {{.first = 0, .length = 70, .position = 0}};
    expect_close(rotated(x, heads, 10000, spans), reference::rope(x, heads, 10000, 0), dtype(), 2);
  }
}

TEST_P(Rope, BitsDependNeitherOnTheStrideNorOnTheNumberOfHeads) {
  for (const Index width : {16, 64, 128, 600}) {
    const Host x = random(70, 12 * width, dtype(), 1);
    const std::vector<Span> spans = {{.first = 0, .length = 50, .position = 1000},
                                     {.first = 50, .length = 20, .position = 0}};
    const Host dense = rotated(x, 12, 10000, spans, false, 0);
    expect_same(rotated(x, 12, 10000, spans), dense);
    Host head(70, width);
    for (Index n = 0; n < 70; ++n)
      for (Index i = 0; i < width; ++i) head(n, i) = x(n, 5 * width + i);
    const Host alone = rotated(head, 1, 10000, spans, false, 0);
    for (Index n = 0; n < 70; ++n)
      for (Index i = 0; i < width; ++i) ASSERT_EQ(alone(n, i), dense(n, 5 * width + i));
  }
}

TEST_P(Rope, StaysExactAtLargePositions) {
  for (const Index position : {Index{1}, (Index{1} << 24) + 1, (Index{1} << 40) + 3}) {
    const Host x = random(5, 48, dtype(), 1);
    const std::vector<Span> spans = {{.first = 0, .length = 5, .position = position}};
    // Frequencies 4^-i: long double holds them, and their products with any position, exactly.
    expect_close(rotated(x, 3, 65536, spans), reference::rope(x, 3, 65536, position), dtype(), 2);
    // Others it rounds, which the reference's angles show beyond float32.
    if (dtype() != DType::f64)
      expect_close(rotated(x, 3, 10000, spans), reference::rope(x, 3, 10000, position), dtype(), 2);
  }
}

TEST_P(Rope, APositionHasOneRotation) {
  const Index position = (Index{1} << 33) + 61;
  const Host x = random(9, 64, dtype(), 1);
  const Host whole = rotated(x, 2, 10000, {{.first = 0, .length = 9, .position = position}});
  const Host cut = rotated(x, 2, 10000,
                           {{.first = 0, .length = 1, .position = position},
                            {.first = 1, .length = 5, .position = position + 1},
                            {.first = 6, .length = 3, .position = position + 6}});
  expect_same(cut, whole);
}

TEST_P(Rope, InverseUndoesTheRotation) {
  for (const Index position : {Index{0}, Index{1000}, Index{1} << 40}) {
    const Host x = random(300, 96, dtype(), 1);
    const std::vector<Span> spans = {{.first = 0, .length = 100, .position = position},
                                     {.first = 100, .length = 200, .position = 7}};
    const Host there = rotated(x, 3, 10000, spans);
    // What lies between is rounded to the model's dtype.
    expect_close(rotated(there, 3, 10000, spans, true), x, dtype(),
                 Law{.terms = 4, .rounded = dtype(), .rms = 0});
  }
}

TEST_P(Rope, KeepsScoresWhenBothMove) {
  const Host x = random(2, 64, dtype(), 1);
  const auto score = [&](Index position) {
    const Host y = rotated(x, 1, 10000, {{.first = 0, .length = 2, .position = position}});
    Host dot(1, 1);
    for (Index i = 0; i < 64; ++i) dot(0, 0) += y(0, i) * y(1, i);
    return dot;
  };
  expect_close(score(Index{1} << 36), score(0), dtype(),
               Law{.terms = 64, .rounded = dtype(), .rms = 8});
}

TEST_P(Rope, RefusesOddWidths) {
  const std::vector<Span> spans = {{.first = 0, .length = 1, .position = 0}};
  const View x = zeros(1, 10, dtype());
  EXPECT_THROW(run(stream(), op::Rope{.x = x, .heads = 2, .base = 10000, .batch = batch_of(spans)}),
               Error);
  EXPECT_THROW(run(stream(), op::Rope{.x = x, .heads = 1, .base = 0.5, .batch = batch_of(spans)}),
               Error);
}

}  // namespace
}  // namespace samba::test
