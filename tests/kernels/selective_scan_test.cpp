#include "kernels/selective_scan.h"

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>
#include <vector>

#include "core/error.h"
#include "kernels/run.h"
#include "support/gradient.h"
#include "support/kernel_test.h"
#include "support/reference.h"

namespace samba::test {
namespace {

constexpr Index kChunk = op::SelectiveScan::kChunk;
constexpr Index kShortest = op::SelectiveScan::kShortest;

/// A sum along time for each state, then one over the states.
Index terms(Index length, Index states) {
  return length + states;
}

/// Columns between rows. A GPU reads a run of channels at once where runs of 8 lie at multiples of
/// their size, which needs this as well as as many channels.
Index gap_for(Index channels) {
  return channels % 8 == 0 ? 8 : 2;
}

/// Inputs as a trained layer would meet them: steps of 0.05 to 1.3, decays around 1 .. S.
struct Inputs {
  Host u, dt, b, c, z, dt_bias, a_log, d, dy;

  Inputs(Index tokens, Index channels, Index states, DType dtype) {
    const DType exact = exact_of(dtype);
    u = random(tokens, channels, dtype, 1);
    dt = random(tokens, channels, dtype, 2);
    b = random(tokens, states, dtype, 3);
    c = random(tokens, states, dtype, 4);
    z = random(tokens, channels, dtype, 5, 2);
    dt_bias = random(1, channels, exact, 6);
    for (double& value : dt_bias.values) value -= 1;
    a_log = random(channels, states, exact, 7, 0.125);
    for (Index e = 0; e < channels; ++e)
      for (Index n = 0; n < states; ++n)
        a_log(e, n) = static_cast<float>(a_log(e, n) + std::log(static_cast<double>(n + 1)));
    d = random(1, channels, exact, 8);
    dy = random(tokens, channels, dtype, 9);
  }

  Host expected(const std::vector<Span>& spans, Host* state = nullptr) const {
    return reference::selective_scan(u, dt, b, c, z, dt_bias, a_log, d, spans, state);
  }
};

class SelectiveScan : public KernelTest {
 protected:
  /// Rows first .. first + rows - 1 of x, uploaded with a gap behind each row.
  View rows(const Host& x, Index first, Index count, Index gap) {
    return upload(x, dtype(), gap).block(first, count);
  }

  op::SelectiveScan scan(const Inputs& in, const Batch& batch, View y, Index first = 0,
                         Index gap = 3) {
    const Index n = batch.tokens;
    return {.y = y,
            .u = rows(in.u, first, n, gap),
            .dt = rows(in.dt, first, n, gap),
            .b = rows(in.b, first, n, gap),
            .c = rows(in.c, first, n, gap),
            .z = in.z.rows > 0 ? rows(in.z, first, n, gap) : View{},
            .dt_bias = upload(in.dt_bias, exact()),
            .a_log = upload(in.a_log, exact()),
            .d = upload(in.d, exact()),
            .batch = batch};
  }

  /// In f64 the same bits, else the tolerance law: different chunks, different company.
  void expect_agrees(const Host& actual, const Host& expected, Index terms) {
    if (dtype() == DType::f64)
      expect_same(actual, expected);
    else
      expect_close(actual, expected, dtype(), terms);
  }
};
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

/// Runs forward for the saved states, then backward, on a stream of its own or the fixture's.
struct Gradients {
  Host du, ddt, db, dc, dz, ddt_bias, da_log, dd;
};

class SelectiveScanBackward : public SelectiveScan {
 protected:
  Gradients gradients(Stream& on, const Inputs& in, const std::vector<Span>& spans, DType type,
                      Index gap = 1, Index chunk = kChunk) {
    const DType exact_type = exact_of(type);
    const Index tokens = in.u.rows, channels = in.u.cols, states = in.b.cols;
    const bool gated = in.z.rows > 0;
    const Batch batch = batch_of(spans);
    const auto up = [&](const Host& x, DType t) { return upload(x, t, gap); };
    const View y = empty(tokens, channels, type);
    const View h = empty(op::SelectiveScan::chunks(batch, chunk), channels * states, exact_type);
    const op::SelectiveScan forward{.y = y,
                                    .u = up(in.u, type),
                                    .dt = up(in.dt, type),
                                    .b = up(in.b, type),
                                    .c = up(in.c, type),
                                    .z = gated ? up(in.z, type) : View{},
                                    .dt_bias = up(in.dt_bias, exact_type),
                                    .a_log = up(in.a_log, exact_type),
                                    .d = up(in.d, exact_type),
                                    .batch = batch,
                                    .h = h,
                                    .chunk = chunk};
    run(on, forward);
    const op::SelectiveScanBackward backward{
        .du = empty(tokens, channels, type, 2 * gap),
        .ddt = empty(tokens, channels, type, 2 * gap),
        .db = empty(tokens, states, type, 2 * gap),
        .dc = empty(tokens, states, type, 2 * gap),
        .dz = gated ? empty(tokens, channels, type, 2 * gap) : View{},
        .ddt_bias = zeros(1, channels, exact_type),
        .da_log = zeros(channels, states, exact_type),
        .dd = zeros(1, channels, exact_type),
        .dy = up(in.dy, type),
        .u = forward.u,
        .dt = forward.dt,
        .b = forward.b,
        .c = forward.c,
        .z = forward.z,
        .dt_bias = forward.dt_bias,
        .a_log = forward.a_log,
        .d = forward.d,
        .h = h,
        .batch = batch,
        .chunk = chunk};
    run(on, backward);
    return {host(backward.du),
            host(backward.ddt),
            host(backward.db),
            host(backward.dc),
            gated ? host(backward.dz) : Host(),
            host(backward.ddt_bias),
            host(backward.da_log),
            host(backward.dd)};
  }

  /// Checks the gradients that the fixture's stream finds, with rows a gap apart.
  void expect_gradients(const Inputs& in, const std::vector<Span>& spans, const Gradients& exactly,
                        Index gap, Index chunk) {
    const Index tokens = in.u.rows, channels = in.u.cols, states = in.b.cols;
    // A parameter's gradient is a sum along time of numbers like ddt, which may cancel.
    const double summed = std::sqrt(static_cast<double>(tokens)) * rms(exactly.ddt.values);
    compare(gradients(stream(), in, spans, dtype(), gap, chunk), exactly,
            [&](const Host& found, const Host& expected, const char* name) {
              SCOPED_TRACE(testing::Message() << name << " E " << channels << " S " << states
                                              << " gap " << gap << " chunk " << chunk);
              Law law{.terms = tokens + channels + states};
              const bool of_parameter = found.rows != tokens;
              if (of_parameter) law.rms = std::max(summed, rms(expected.values));
              expect_close(found, expected, of_parameter ? exact() : dtype(), law);
            });
  }

  template <class Check>
  static void compare(const Gradients& a, const Gradients& b, Check&& check) {
    check(a.du, b.du, "du"), check(a.ddt, b.ddt, "ddt"), check(a.db, b.db, "db");
    check(a.dc, b.dc, "dc"), check(a.dz, b.dz, "dz"), check(a.ddt_bias, b.ddt_bias, "ddt_bias");
    check(a.da_log, b.da_log, "da_log"), check(a.dd, b.dd, "dd");
  }
};
SAMBA_KERNEL_TEST(SelectiveScanBackward);

TEST_P(SelectiveScanBackward, MatchesFloat64) {
  Stream plain(1, Tier::plain);
  for (const Index channels : {1, 17, 80})
    for (const Index states : {1, 7, 16, 35}) {
      const Index tokens = 2 * kChunk + 14;
      const Inputs in(tokens, channels, states, dtype());
      const std::vector<Span> spans{
          {0, 1, 0}, {1, 9, 0}, {10, 2 * kChunk + 3, 0}, {2 * kChunk + 13, 1, 0}};
      const Gradients exactly = gradients(plain, in, spans, DType::f64);
      for (const Index gap : {1, 8})
        for (const Index chunk : {kShortest, kChunk})
          expect_gradients(in, spans, exactly, gap, chunk);
    }
}

TEST_P(SelectiveScanBackward, MatchesFloat64AlsoWithManySpans) {
  Stream plain(1, Tier::plain);
  std::vector<Span> spans;
  Index tokens = 0;
  for (Index i = 0; i < 150; ++i) {
    const Index length = i == 70 ? kChunk + 17 : 1 + i * 5 % 11;
    spans.push_back({tokens, length, 0});
    tokens += length;
  }
  for (const Index channels : {66, 80}) {
    const Inputs in(tokens, channels, 16, dtype());
    const Gradients exactly = gradients(plain, in, spans, DType::f64);
    for (const Index chunk : {kShortest, kChunk})
      expect_gradients(in, spans, exactly, gap_for(channels), chunk);
  }
}

TEST_P(SelectiveScanBackward, WorksWithoutAGate) {
  Stream plain(1, Tier::plain);
  for (const Index channels : {18, 24}) {
    Inputs in(11, channels, 16, dtype());
    in.z = Host();
    const std::vector<Span> spans{{0, 11, 0}};
    const Gradients expected = gradients(plain, in, spans, DType::f64);
    const Gradients found = gradients(stream(), in, spans, dtype(), gap_for(channels));
    expect_close(found.du, expected.du, dtype(), terms(11, 16));
    expect_close(found.db, expected.db, dtype(), terms(11, channels));
    expect_close(found.da_log, expected.da_log, exact(), terms(11, 16));
  }
}

TEST_P(SelectiveScanBackward, TwiceIsTheSame) {
  const Inputs in(kChunk + 5, 200, 16, dtype());
  const std::vector<Span> spans{{0, 5, 0}, {5, kChunk, 0}};
  for (const Index chunk : {kShortest, kChunk})
    compare(gradients(stream(), in, spans, dtype(), 8, chunk),
            gradients(stream(), in, spans, dtype(), 8, chunk),
            [](const Host& a, const Host& b, const char* name) {
              SCOPED_TRACE(name);
              expect_same(a, b);
            });
}

TEST_P(SelectiveScanBackward, ChunksChangeOnlyTheOrderOfSumsAlongTime) {
  const Inputs in(2 * kChunk + 5, 200, 16, dtype());
  const std::vector<Span> spans{{0, 5, 0}, {5, 2 * kChunk, 0}};
  const Gradients longest = gradients(stream(), in, spans, dtype(), 8);
  for (const Index chunk : {16, 32})
    compare(gradients(stream(), in, spans, dtype(), 8, chunk), longest,
            [&](const Host& a, const Host& b, const char* name) {
              SCOPED_TRACE(name);
              if (a.rows == in.u.rows)
                expect_same(a, b);
              else
                expect_close(a, b, exact(), in.u.rows);
            });
}

TEST_P(SelectiveScanBackward, ThreadsChangeOnlyTheOrderOfSums) {
  const Inputs in(kChunk + 5, 200, 16, dtype());
  const std::vector<Span> spans{{0, 5, 0}, {5, kChunk, 0}};
  Stream alone = GetParam().stream(1);
  compare(gradients(stream(), in, spans, dtype()), gradients(alone, in, spans, dtype()),
          [&](const Host& a, const Host& b, const char* name) {
            SCOPED_TRACE(name);
            expect_close(a, b, dtype(), 200);
          });
}

TEST_P(SelectiveScanBackward, CompanyInTheBatchChangesNoBitOfARow) {
  const Inputs in(kChunk + 40, 48, 16, dtype());
  const std::vector<Span> packed{{0, 9, 0}, {9, kChunk + 7, 0}, {kChunk + 16, 24, 0}};
  const Span& span = packed[1];
  Inputs one(span.length, 48, 16, dtype());
  one.dt_bias = in.dt_bias, one.a_log = in.a_log, one.d = in.d;
  const auto cut = [&](const Host& from) {
    Host to(span.length, from.cols);
    for (Index t = 0; t < to.rows; ++t)
      for (Index i = 0; i < to.cols; ++i) to(t, i) = from(span.first + t, i);
    return to;
  };
  one.u = cut(in.u), one.dt = cut(in.dt), one.b = cut(in.b), one.c = cut(in.c), one.z = cut(in.z);
  one.dy = cut(in.dy);
  const std::vector<Span> alone{{0, span.length, 0}};
  for (const Index chunk : {kShortest, kChunk}) {
    const Gradients together = gradients(stream(), in, packed, dtype(), 8, chunk);
    const Gradients apart = gradients(stream(), one, alone, dtype(), 8, chunk);
    expect_same(apart.du, cut(together.du));
    expect_same(apart.ddt, cut(together.ddt));
    expect_same(apart.db, cut(together.db));
    expect_same(apart.dc, cut(together.dc));
    expect_same(apart.dz, cut(together.dz));
  }
}

TEST_P(SelectiveScanBackward, AddsToTheGradientsOfParameters) {
  const Inputs in(6, 17, 16, dtype());
  const std::vector<Span> spans{{0, 6, 0}};
  const Gradients once = gradients(stream(), in, spans, dtype());
  const Batch batch = batch_of(spans);
  const View y = empty(6, 17), h = empty(1, 17 * 16, exact());
  auto forward = scan(in, batch, y);
  forward.h = h;
  run(stream(), forward);
  const View ddt_bias = zeros(1, 17, exact()), da_log = zeros(17, 16, exact()),
             dd = zeros(1, 17, exact());
  for (const View& gradient : {ddt_bias, da_log, dd}) fill(gradient, 1);
  run(stream(), op::SelectiveScanBackward{.du = empty(6, 17),
                                          .ddt = empty(6, 17),
                                          .db = empty(6, 16),
                                          .dc = empty(6, 16),
                                          .dz = empty(6, 17),
                                          .ddt_bias = ddt_bias,
                                          .da_log = da_log,
                                          .dd = dd,
                                          .dy = upload(in.dy),
                                          .u = forward.u,
                                          .dt = forward.dt,
                                          .b = forward.b,
                                          .c = forward.c,
                                          .z = forward.z,
                                          .dt_bias = forward.dt_bias,
                                          .a_log = forward.a_log,
                                          .d = forward.d,
                                          .h = h,
                                          .batch = batch});
  const auto expect_one_more = [&](View found, Host expected) {
    for (double& value : expected.values) value += 1;
    expect_close(host(found), expected, exact(), 6);
  };
  expect_one_more(ddt_bias, once.ddt_bias);
  expect_one_more(da_log, once.da_log);
  expect_one_more(dd, once.dd);
}

TEST(SelectiveScanBackwardInFloat64, MatchesFiniteDifferences) {
  Stream plain(1, Tier::plain);
  const Index tokens = kChunk + 6, channels = 3, states = 5;
  const std::vector<Span> spans{{0, 2, 0}, {2, kChunk + 3, 0}, {kChunk + 5, 1, 0}};
  const Batch batch = batch_of(spans);
  const Inputs in(tokens, channels, states, DType::f64);
  std::vector<Matrix> owned;
  const auto matrix = [&](Index rows, Index cols) {
    owned.emplace_back(plain, DType::f64, rows, cols);
    fill(owned.back(), 0);
    return owned.back().view();
  };
  const auto filled = [&](const Host& x) {
    const View v = matrix(x.rows, x.cols);
    std::copy(x.values.begin(), x.values.end(), v.row<double>(0));
    return v;
  };
  const View u = filled(in.u), dt = filled(in.dt), b = filled(in.b), c = filled(in.c),
             z = filled(in.z);
  const View dt_bias = filled(in.dt_bias), a_log = filled(in.a_log), d = filled(in.d);
  const View y = matrix(tokens, channels);
  const View h = matrix(op::SelectiveScan::chunks(batch), channels * states);
  const op::SelectiveScan forward{.y = y,
                                  .u = u,
                                  .dt = dt,
                                  .b = b,
                                  .c = c,
                                  .z = z,
                                  .dt_bias = dt_bias,
                                  .a_log = a_log,
                                  .d = d,
                                  .batch = batch,
                                  .h = h};
  run(plain, forward);
  const View du = matrix(tokens, channels), ddt = matrix(tokens, channels),
             dz = matrix(tokens, channels);
  const View db = matrix(tokens, states), dc = matrix(tokens, states);
  const View ddt_bias = matrix(1, channels), da_log = matrix(channels, states),
             dd = matrix(1, channels);
  run(plain, op::SelectiveScanBackward{.du = du,
                                       .ddt = ddt,
                                       .db = db,
                                       .dc = dc,
                                       .dz = dz,
                                       .ddt_bias = ddt_bias,
                                       .da_log = da_log,
                                       .dd = dd,
                                       .dy = filled(in.dy),
                                       .u = u,
                                       .dt = dt,
                                       .b = b,
                                       .c = c,
                                       .z = z,
                                       .dt_bias = dt_bias,
                                       .a_log = a_log,
                                       .d = d,
                                       .h = h,
                                       .batch = batch});
  const auto loss = [&] {
    run(plain, forward);
    return dot(in.dy, host(y));
  };
  expect_gradient(u, host(du), loss);
  expect_gradient(dt, host(ddt), loss);
  expect_gradient(b, host(db), loss);
  expect_gradient(c, host(dc), loss);
  expect_gradient(z, host(dz), loss);
  expect_gradient(dt_bias, host(ddt_bias), loss);
  expect_gradient(a_log, host(da_log), loss);
  expect_gradient(d, host(dd), loss);
}

}  // namespace
}  // namespace samba::test
