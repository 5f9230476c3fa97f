#include "kernels/delay.h"

#include "core/error.h"
#include "kernels/run.h"
#include "support/kernel_test.h"

namespace samba::test {
namespace {

class Delay : public KernelTest {};
SAMBA_KERNEL_TEST(Delay);

TEST_P(Delay, GivesEveryRowLateHoweverTheSequenceIsCut) {
  const Index length = 23, cols = 7;
  const Host x = random(length, cols, dtype(), 1);
  const View all = upload(x, dtype(), 2);
  for (const Index by : {1, 4, 9, 40}) {
    Host expected(length, cols);
    for (Index t = by; t < length; ++t)
      for (Index c = 0; c < cols; ++c) expected(t, c) = x(t - by, c);
    const std::vector<Span> whole{{0, length, 0}};
    const View y = empty(length, cols, dtype(), 1);
    run(stream(), op::Delay{.y = y, .x = all, .by = by, .batch = batch_of(whole)});
    expect_same(host(y), expected);
    const View state = empty(2, by * cols);
    Index first = 0;
    for (const Index piece : {1, 2, 11, 1, 8}) {
      const std::vector<Span> spans{{0, piece, first, 1}};
      const View part = empty(piece, cols);
      run(stream(), op::Delay{.y = part,
                              .x = all.block(first, piece),
                              .by = by,
                              .batch = batch_of(spans),
                              .state = state});
      for (Index r = 0; r < piece; ++r)
        for (Index c = 0; c < cols; ++c)
          ASSERT_EQ(host(part)(r, c), expected(first + r, c)) << by << ", row " << first + r;
      first += piece;
    }
    ASSERT_EQ(first, length);
  }
}

TEST_P(Delay, MovesManySequencesAtOnce) {
  const Index cols = 16, by = 3;
  const std::vector<Index> lengths{1, 5, 2, 9, 1, 3};
  const Index position = 4;
  std::vector<Span> before, spans;
  Index tokens = 0;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    const auto slot = static_cast<Index>(i);
    before.push_back({slot * position, position, 0, slot});
    spans.push_back({tokens, lengths[i], position, slot});
    tokens += lengths[i];
  }
  const Index count = static_cast<Index>(lengths.size());
  const Host x = random(count * position, cols, dtype(), 1),
             more = random(tokens, cols, dtype(), 2);
  const View state = empty(count, by * cols);
  run(stream(), op::Delay{.y = empty(count * position, cols),
                          .x = upload(x),
                          .by = by,
                          .batch = batch_of(before),
                          .state = state});
  const View y = empty(tokens, cols);
  run(stream(),
      op::Delay{.y = y, .x = upload(more), .by = by, .batch = batch_of(spans), .state = state});
  Host expected(tokens, cols), kept(count, by * cols);
  for (const Span& span : spans) {
    const auto at = [&](Index t, Index c) {
      return t < 0 ? x(span.slot * position + position + t, c) : more(span.first + t, c);
    };
    for (Index c = 0; c < cols; ++c) {
      for (Index t = 0; t < span.length; ++t) expected(span.first + t, c) = at(t - by, c);
      for (Index t = span.length - by; t < span.length; ++t)
        kept(span.slot, (position + t) % by * cols + c) = at(t, c);
    }
  }
  expect_same(host(y), expected);
  expect_same(host(state), kept);
}

TEST_P(Delay, RefusesWhatDoesNotFit) {
  const std::vector<Span> spans{{0, 4, 0, 2}};
  op::Delay op{.y = empty(4, 3), .x = zeros(4, 3, dtype()), .by = 2, .batch = batch_of(spans)};
  op.state = empty(2, 6);
  EXPECT_THROW(run(stream(), op), Error);
  op.state = empty(3, 5);
  EXPECT_THROW(run(stream(), op), Error);
  op.state = {};
  op.by = 0;
  EXPECT_THROW(run(stream(), op), Error);
}

}  // namespace
}  // namespace samba::test
