#include "kernels/selective_scan.h"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>
#include <vector>

#include "core/error.h"
#include "kernels/run.h"
#include "kernels/selective_scan_fixture.h"

namespace samba::test {
namespace {

SAMBA_KERNEL_TEST(SelectiveScan);

TEST_P(SelectiveScan, MatchesTheDefinition) {
  for (const Index channels : {1, 17, 48})
    for (const Index states : {1, 5, 16, 19})
      for (const Index length : {Index{1}, Index{7}, 3 * kChunk + 5}) {
        const Inputs in(length, channels, states, dtype());
        const std::vector<Span> spans{{0, length, 0}};
        const Index gap = gap_for(channels);
        const View y = empty(length, channels, dtype(), gap);
        run(stream(), scan(in, batch_of(spans), y, 0, gap));
        expect_close(host(y), in.expected(spans), dtype(), terms(length, states));
      }
}

TEST_P(SelectiveScan, PackedDecaysGiveTheSameBitsAlsoTokenByToken) {
  for (const Index channels : {1, 17, 600})
    for (const Index states : {1, 5, 16, 19, 37}) {
      const Index length = 9;
      const Inputs in(length, channels, states, dtype());
      const std::vector<Span> spans{{0, length, 0, 2}};
      const View whole = empty(length, channels), state = empty(3, channels * states, exact());
      fill(state, 7);
      auto op = scan(in, batch_of(spans), whole);
      op.state = state;
      run(stream(), op);

      const View decay = empty(states, channels, exact());
      run(stream(), op::PackDecay{.decay = decay, .a_log = op.a_log});
      op.a_log = {}, op.decay = decay;
      const View packed = empty(length, channels);
      op.y = packed;
      run(stream(), op);
      expect_same(host(packed), host(whole));

      const View steps = empty(length, channels), found = empty(3, channels * states, exact());
      fill(found, 7);
      for (Index t = 0; t < length; ++t) {
        const std::vector<Span> one{{0, 1, t, 2}};
        op = scan(in, batch_of(one), steps.block(t, 1), t);
        op.a_log = {}, op.decay = decay, op.state = found;
        run(stream(), op);
      }
      expect_agrees(host(steps), host(whole), terms(length, states));
      expect_agrees(host(found), host(state), terms(length, states));
    }
}

TEST_P(SelectiveScan, WorksWithoutAGate) {
  Inputs in(9, 17, 16, dtype());
  in.z = Host();
  const std::vector<Span> spans{{0, 9, 0}};
  const View y = empty(9, 17);
  run(stream(), scan(in, batch_of(spans), y));
  expect_close(host(y), in.expected(spans), dtype(), terms(9, 16));
}

TEST_P(SelectiveScan, TakesStepsAndDecaysOfAnySize) {
  Inputs in(40, 17, 16, dtype());
  for (std::size_t i = 0; i < in.dt.values.size(); ++i)
    in.dt.values[i] = i % 3 == 0 ? 64 : i % 3 == 1 ? -64 : 20;
  for (double& value : in.dt_bias.values) value = 0;
  const std::vector<Span> spans{{0, 40, 0}};
  const View y = empty(40, 17);
  run(stream(), scan(in, batch_of(spans), y));
  expect_close(host(y), in.expected(spans), dtype(), terms(40, 16));
}

TEST_P(SelectiveScan, IgnoresTheStateAtPosition0AndLeavesItsOwn) {
  const Inputs in(kChunk + 3, 17, 16, dtype());
  const std::vector<Span> spans{{0, kChunk + 3, 0, 1}};
  const View y = empty(kChunk + 3, 17), state = empty(3, 17 * 16, exact(), 2);
  auto op = scan(in, batch_of(spans), y);
  op.state = state;
  run(stream(), op);
  Host left;
  expect_close(host(y), in.expected(spans, &left), dtype(), terms(kChunk + 3, 16));
  expect_close(host(state.block(1, 1)), left, exact(), kChunk + 3);
  for (const Index untouched : {0, 2})
    for (Index i = 0; i < state.cols; ++i) ASSERT_TRUE(std::isnan(host(state)(untouched, i)));
}

TEST_P(SelectiveScan, CuttingASequenceChangesNothing) {
  const Index length = 2 * kChunk + 27;
  const Inputs in(length, 48, 16, dtype());
  const std::vector<Span> whole{{0, length, 0}};
  const View y = empty(length, 48);
  run(stream(), scan(in, batch_of(whole), y));
  const View state = empty(2, 48 * 16, exact());
  Index first = 0;
  for (const Index piece :
       {Index{20}, Index{1}, Index{1}, kChunk + 1, Index{5}, Index{1}, kChunk - 2}) {
    const std::vector<Span> spans{{0, piece, first, 1}};
    const View part = empty(piece, 48);
    auto op = scan(in, batch_of(spans), part, first);
    op.state = state;
    run(stream(), op);
    expect_agrees(host(part), host(y.block(first, piece)), terms(length, 16));
    first += piece;
  }
  ASSERT_EQ(first, length);
}

TEST_P(SelectiveScan, CompanyInTheBatchChangesNoBit) {
  const Inputs in(kChunk + 40, 48, 16, dtype());
  const std::vector<Span> packed{
      {0, 1, 0}, {1, kChunk + 7, 0}, {kChunk + 8, 31, 0}, {kChunk + 39, 1, 0}};
  const View y = empty(kChunk + 40, 48);
  run(stream(), scan(in, batch_of(packed), y));
  for (const Span& span : packed) {
    const std::vector<Span> alone{{0, span.length, 0}};
    const View part = empty(span.length, 48);
    run(stream(), scan(in, batch_of(alone), part, span.first));
    expect_same(host(part), host(y.block(span.first, span.length)));
  }
}

// A GPU gives its threads more channels where there are many spans and channels come in runs.
TEST_P(SelectiveScan, AlsoACrowdInTheBatchChangesNoBit) {
  SAMBA_SKIP_ON_SLOWER_TIERS();
  std::vector<Span> packed;
  Index tokens = 0;
  for (Index i = 0; i < 300; ++i) {
    const Index length = i % 100 == 50 ? 2 * kChunk + 9 : 1 + i * 7 % 13;
    packed.push_back({tokens, length, 0, i});
    tokens += length;
  }
  for (const auto& [channels, states] :
       std::vector<std::pair<Index, Index>>{{66, 37}, {72, 16}, {72, 37}}) {
    SCOPED_TRACE(text_of(channels, " channels of ", states, " states"));
    const Index gap = gap_for(channels);
    const Inputs in(tokens, channels, states, dtype());
    const View y = empty(tokens, channels), state = empty(300, channels * states, exact());
    auto op = scan(in, batch_of(packed), y, 0, gap);
    const View h = empty(op::SelectiveScan::chunks(op.batch), channels * states, exact(), 2);
    op.state = state, op.h = h;
    run(stream(), op);
    // So many rows hold some whose terms cancel almost wholly: errors are those of the terms.
    Inputs sizes = in;
    for (Host* x : {&sizes.u, &sizes.b, &sizes.c, &sizes.d})
      for (double& value : x->values) value = std::abs(value);
    expect_close(
        host(y), in.expected(packed), dtype(),
        Law{.terms = terms(2 * kChunk + 9, states), .rms = rms(sizes.expected(packed).values)});
    for (const Index i : {0, 49, 50, 150, 299}) {
      const Span& span = packed[static_cast<std::size_t>(i)];
      const std::vector<Span> alone{{0, span.length, 0, 0}};
      const View part = empty(span.length, channels), left = empty(1, channels * states, exact());
      auto one = scan(in, batch_of(alone), part, span.first, gap);
      const View h_one = empty(op::SelectiveScan::chunks(one.batch), channels * states, exact());
      one.state = left, one.h = h_one;
      run(stream(), one);
      expect_same(host(part), host(y.block(span.first, span.length)));
      expect_same(host(left), host(state.block(i, 1)));
      const Index chunks = (span.length + kChunk - 1) / kChunk;
      expect_same(host(h_one.block(0, chunks)),
                  host(h.block(op::SelectiveScan::chunk_row(span, i), chunks)));
    }
  }
}

TEST_P(SelectiveScan, ManySequencesMoveOneTokenAtATime) {
  const Index sequences = 5, steps = 3;
  const Inputs in(sequences * steps, 17, 16, dtype());
  std::vector<Span> whole;
  for (Index s = 0; s < sequences; ++s) whole.push_back({s * steps, steps, 0});
  const Host expected = in.expected(whole);
  const View state = empty(sequences, 17 * 16, exact());
  for (Index t = 0; t < steps; ++t) {
    Inputs step(sequences, 17, 16, dtype());
    step.dt_bias = in.dt_bias, step.a_log = in.a_log, step.d = in.d;
    Host expected_step(sequences, 17);
    const auto pick = [&](Host& to, const Host& from) {
      for (Index s = 0; s < sequences; ++s)
        for (Index i = 0; i < from.cols; ++i) to(s, i) = from(s * steps + t, i);
    };
    pick(step.u, in.u), pick(step.dt, in.dt), pick(step.b, in.b), pick(step.c, in.c);
    pick(step.z, in.z), pick(expected_step, expected);
    std::vector<Span> spans;
    for (Index s = 0; s < sequences; ++s) spans.push_back({s, 1, t, sequences - 1 - s});
    const View y = empty(sequences, 17);
    auto op = scan(step, batch_of(spans), y);
    op.state = state;
    run(stream(), op);
    expect_close(host(y), expected_step, dtype(), terms(steps, 16));
  }
}

TEST_P(SelectiveScan, MakesItsStepsItself) {
  struct Case {
    Index rank, channels, states, sequences, length;
  };
  for (const auto& [rank, channels, states, sequences, length] :
       {Case{1, 17, 16, 3, 1}, Case{96, 40, 16, 1, 1}, Case{128, 600, 16, 3, 1},
        Case{160, 33, 19, 2, 1}, Case{256, 32, 16, 2, 1}, Case{40, 17, 5, 20, 1},
        Case{32, 48, 16, 2, 7}}) {
    SCOPED_TRACE(text_of(rank, " to ", channels, ", ", sequences, " x ", length));
    const Index tokens = sequences * length;
    Inputs in(tokens, channels, states, dtype());
    const View r = upload(random(tokens, rank, dtype(), 20), dtype(), 8);
    const View w = upload(
        random(channels, rank, dtype(), 21, 1 / std::sqrt(static_cast<double>(rank))), dtype(), 8);
    const View panels =
        empty(op::PackLinear::panel_rows(channels), op::PackLinear::panel_cols(rank));
    run(stream(), op::PackLinear{.panels = panels, .w = w});
    const View dt = empty(tokens, channels);
    run(stream(), op::Linear{.y = dt, .x = r, .w = w});
    in.dt = host(dt);
    std::vector<Span> spans, behind;
    for (Index s = 0; s < sequences; ++s) {
      spans.push_back({s * length, length, 0, sequences - 1 - s});
      behind.push_back({s * length, length, length, sequences - 1 - s});
    }
    // What the sum is off by is multiplied by the gate, which is below |z|.
    Inputs open = in;
    open.z = Host();
    double gate = 0;
    for (const double z : in.z.values) gate = std::max(gate, std::abs(z));
    const Law law{.terms = terms(length, states), .rms = gate * rms(open.expected(spans).values)};
    const auto scan_twice = [&](const op::Linear& product) {
      const View y = empty(tokens, channels), again = empty(tokens, channels);
      const View state = empty(sequences, channels * states, exact());
      for (const bool first : {true, false}) {
        auto op = scan(in, batch_of(first ? spans : behind), first ? y : again);
        op.state = state;
        if (!product.w.empty()) op.dt = product.y, op.dt_from = product;
        run(stream(), op);
      }
      return std::tuple{host(y), host(again), host(state)};
    };
    const auto [y, again, state] = scan_twice({});
    expect_close(y, in.expected(spans), dtype(), law);
    for (const bool packed : {false, true}) {
      const auto [own, own_again, own_state] = scan_twice(
          {.y = empty(tokens, channels), .x = r, .w = packed ? panels : w, .packed = packed});
      expect_close(own, in.expected(spans), dtype(), law);
      expect_same(own, y);
      expect_same(own_again, again);
      expect_same(own_state, state);
    }
  }
}

TEST(SelectiveScanChunks, RowsOfTwoSpansNeverMeet) {
  const Index lengths[] = {1, 2, kChunk - 1, kChunk, kChunk + 1, 3 * kChunk - 1, 3 * kChunk};
  std::vector<Span> spans;
  Index tokens = 0;
  for (int i = 0; i < 500; ++i) {
    const Index length = lengths[static_cast<std::size_t>(i * i + i / 9) % std::size(lengths)];
    spans.push_back({tokens, length, 0});
    tokens += length;
  }
  Index free = 0;
  for (std::size_t i = 0; i < spans.size(); ++i) {
    const Index row = op::SelectiveScan::chunk_row(spans[i], static_cast<Index>(i));
    ASSERT_GE(row, free);
    free = row + (spans[i].length + kChunk - 1) / kChunk;
  }
  ASSERT_LE(free, op::SelectiveScan::chunks(batch_of(spans)));
}

TEST_P(SelectiveScan, LeavesTheStateBeforeEachChunk) {
  for (const Index tokens : {kShortest, 3 * kShortest, kChunk}) {
    const Index length = 2 * tokens + 1;
    const Inputs in(length + 1, 17, 16, dtype());
    const std::vector<Span> spans{{0, 1, 0}, {1, length, 0}};
    const View y = empty(length + 1, 17), h = empty(4, 17 * 16, exact(), 5);
    auto op = scan(in, batch_of(spans), y);
    ASSERT_EQ(op::SelectiveScan::chunks(op.batch, tokens), 4);
    op.h = h, op.chunk = tokens;
    run(stream(), op);
    for (const Index chunk : {0, 1}) expect_same(host(h.block(chunk, 1)), Host(1, 17 * 16));
    for (const Index chunk : {2, 3}) {
      Host expected;
      in.expected({{0, 1, 0}, {1, (chunk - 1) * tokens, 0}}, &expected);
      expect_close(host(h.block(chunk, 1)), expected, exact(), length);
    }
  }
}

TEST_P(SelectiveScan, ThreadsChangeNoBit) {
  const std::vector<Span> spans{{0, 9, 0}, {9, kChunk, 0}};
  Stream alone = GetParam().stream(1);
  // Channels are cut in tiles by the number of threads; 600 are several tiles for one thread, too.
  for (const Index channels : {200, 600}) {
    const Inputs in(kChunk + 9, channels, 16, dtype());
    const View y1 = empty(kChunk + 9, channels), y2 = empty(kChunk + 9, channels);
    run(alone, scan(in, batch_of(spans), y1));
    run(stream(), scan(in, batch_of(spans), y2));
    expect_same(host(y2), host(y1));
  }
}

TEST_P(SelectiveScan, RefusesWhatDoesNotFit) {
  const Inputs in(4, 17, 16, dtype());
  const std::vector<Span> spans{{0, 4, 0, 2}};
  auto op = scan(in, batch_of(spans), empty(4, 17));
  op.state = empty(2, 17 * 16, exact());
  EXPECT_THROW(run(stream(), op), Error);
  op.state = empty(3, 17 * 15, exact());
  EXPECT_THROW(run(stream(), op), Error);
  op.state = {};
  op.h = empty(2, 17 * 16, exact());
  EXPECT_THROW(run(stream(), op), Error);
  op.h = {};
  for (const Index chunk : {0, 8, 128}) {
    op.chunk = chunk;
    EXPECT_THROW(run(stream(), op), Error);
  }
  op.chunk = kChunk;
  op.b = empty(4, 15);
  EXPECT_THROW(run(stream(), op), Error);
}

}  // namespace
}  // namespace samba::test
