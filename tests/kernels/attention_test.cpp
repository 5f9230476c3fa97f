#include "kernels/attention.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "core/error.h"
#include "kernels/attention_fixture.h"
#include "kernels/attention_merge.h"
#include "kernels/run.h"

namespace samba::test {
namespace {

SAMBA_KERNEL_TEST(Attention);

TEST_P(Attention, MatchesTheDefinition) {
  for (const Shape& s : kShapes) {
    const Inputs in = inputs(s);
    const View y = empty(s.length, s.y_cols(), dtype(), 3),
               lse = empty(s.length, s.heads.heads, exact(), 1);
    const std::vector<Span> spans = {{.first = 0, .length = s.length, .position = 0}};
    op::Attention op = call(s, in.views, y, spans);
    op.lse = lse;
    run(stream(), op);
    Host expected_lse;
    expect_close(host(y), expected(s, in, &expected_lse), dtype(), law(s));
    expect_close(host(lse), expected_lse, exact(), s.terms());
  }
}

TEST_P(Attention, ReadsColumnsOfWiderMatrices) {
  const Shape s{{4, 2, 24}, 77, 30};
  const Host all = random(s.length, s.q_cols() + 2 * s.k_cols(), dtype(), 4);
  const View fused = upload(all, dtype(), 5);
  const View views[3] = {fused.columns(0, s.q_cols()), fused.columns(s.q_cols(), s.k_cols()),
                         fused.columns(s.q_cols() + s.k_cols(), s.k_cols())};
  const Inputs in{host(views[0]), host(views[1]), host(views[2]), {}};
  const View wide = empty(s.length, s.q_cols() + 7);
  const std::vector<Span> spans = {{.first = 0, .length = s.length, .position = 0}};
  run(stream(), call(s, views, wide.columns(3, s.q_cols()), spans));
  expect_close(host(wide.columns(3, s.q_cols())), expected(s, in), dtype(), law(s));
  expect_same(host(fused), all);
  for (const Index c : {Index{0}, Index{2}, s.q_cols() + 3})
    EXPECT_TRUE(std::isnan(host(wide)(s.length - 1, c))) << "column " << c;
}

TEST_P(Attention, CuttingASequenceChangesNothing) {
  for (const Shape& s :
       {Shape{{4, 2, 16}, 260, 16}, Shape{{3, 1, 5}, 333, 100}, Shape{{2, 2, 24}, 40, 1},
        Shape{{1, 1, 64}, 230, 5}, Shape{{2, 1, 16}, 150, kFull}, Shape{{1, 1, 8, 40}, 190, 50},
        Shape{{4, 2, 16, 24}, 260, 37, true}, Shape{{1, 1, 16, 72}, 333, 100, true},
        Shape{{2, 1, 8}, 40, 1, true}, Shape{{2, 2, 8, 5}, 90, 128, true},
        Shape{{3, 1, 64}, 620, 150}, Shape{{2, 2, 128}, 410, 128}, Shape{{1, 1, 256}, 230, 70},
        Shape{{20, 1, 64}, 90, kFull}, Shape{{1, 1, 64, 128}, 320, 96, true}}) {
    const Inputs in = inputs(s);
    const View y = empty(s.length, s.y_cols());
    const std::vector<Span> spans = {{.first = 0, .length = s.length, .position = 0}};
    run(stream(), call(s, in.views, y, spans));
    const Index least = std::min(s.window, s.length);
    for (const Index capacity : {least, least + 3})
      for (const std::vector<Index>& chunks :
           {std::vector<Index>{1}, {1, 1, 7, 2, 50, 1}, {37}, {200, 1, 3}, {128}}) {
        const Host cut = in_chunks(s, in, capacity, chunks);
        if (dtype() == DType::f64)
          expect_same(cut, host(y));
        else
          expect_close(cut, expected(s, in), dtype(), law(s));
      }
  }
}

TEST_P(Attention, CompanyInTheBatchChangesNothing) {
  for (const Shape& s : {Shape{{4, 2, 16}, 150, 40}, Shape{{2, 1, 16, 24}, 150, 40, true},
                         Shape{{4, 2, 64}, 150, 40}, Shape{{1, 1, 128}, 150, 40}}) {
    const Inputs in = inputs(s), other = inputs({s.heads, 171, s.window, s.chunked}, 9);
    const Index capacity = 41;
    const View keys = empty(4, capacity * s.k_cols()), values = empty(4, capacity * s.v_cols());
    const View alone_keys = empty(4, keys.cols), alone_values = empty(4, values.cols);
    // Two steps: a chunk of each sequence, then a single token of one between chunks of the other.
    const auto joined = [&](int i, Index a, Index n, Index b, Index m) {
      Host x(n + m, in.views[i].cols);
      const Host &first = host(other.views[i].block(b, m)), second = host(in.views[i].block(a, n));
      std::copy(first.values.begin(), first.values.end(), x.values.begin());
      std::copy(second.values.begin(), second.values.end(), x.values.begin() + m * x.cols);
      return upload(x);
    };
    Index done = 0, other_done = 0;
    for (const auto& [n, m] :
         {std::pair<Index, Index>{100, 60}, {1, 70}, {2, 1}, {1, 1}, {46, 39}}) {
      const View both[3] = {joined(0, done, n, other_done, m), joined(1, done, n, other_done, m),
                            joined(2, done, n, other_done, m)};
      const View y = empty(n + m, s.y_cols()), y_alone = empty(n, s.y_cols());
      const std::vector<Span> spans = {{.first = 0, .length = m, .position = other_done, .slot = 3},
                                       {.first = m, .length = n, .position = done, .slot = 0}};
      op::Attention op = call(s, both, y, spans);
      op.key_state = keys;
      op.value_state = values;
      run(stream(), op);
      const View views[3] = {in.views[0].block(done, n), in.views[1].block(done, n),
                             in.views[2].block(done, n)};
      const std::vector<Span> single = {{.first = 0, .length = n, .position = done, .slot = 2}};
      op::Attention alone = call(s, views, y_alone, single);
      alone.key_state = alone_keys;
      alone.value_state = alone_values;
      run(stream(), alone);
      expect_same(host(y.block(m, n)), host(y_alone));
      done += n;
      other_done += m;
    }
    expect_same(host(keys.block(0, 1)), host(alone_keys.block(2, 1)));
    for (const Index slot : {1, 2}) EXPECT_TRUE(std::isnan(host(keys)(slot, 0))) << "slot " << slot;
  }
}

TEST_P(Attention, NeighboursStaySeparate) {
  for (const Index width : {Index{16}, Index{64}, Index{128}}) {
    // Whatever the sequences beside it hold, and the rows of a ring that were never written.
    const Shape s{{2, 1, width}, 400, kFull};
    const Index first = 90, length = 201;
    Inputs in = inputs(s);
    for (Host* x : {&in.q, &in.k, &in.v})
      for (Index r = 0; r < s.length; ++r)
        if (r < first || r >= first + length)
          for (Index c = 0; c < x->cols; ++c) (*x)(r, c) = NAN;
    const View views[3] = {upload(in.q), upload(in.k), upload(in.v)};
    const View y = empty(s.length, s.y_cols());
    const std::vector<Span> spans = {
        {.first = 0, .length = first, .position = 0, .slot = 0},
        {.first = first, .length = length, .position = 0, .slot = 1},
        {.first = first + length, .length = s.length - first - length, .position = 0, .slot = 2}};
    op::Attention op = call(s, views, y, spans);
    op.key_state = empty(3, 401 * s.k_cols());
    op.value_state = empty(3, 401 * s.v_cols());
    run(stream(), op);
    const auto own = [&](const Host& x) {
      Host rows(length, x.cols);
      std::copy_n(x.values.begin() + first * x.cols, length * x.cols, rows.values.begin());
      return rows;
    };
    const Inputs alone{own(in.q), own(in.k), own(in.v), {}};
    expect_close(own(host(y)), expected(s, alone), dtype(), law(s));
    // The sequence goes on: a few tokens, then one.
    Index position = length;
    Inputs more = alone;
    for (const Index n : {Index{7}, Index{1}}) {
      const Inputs next = inputs({s.heads, n, kFull}, 20 + static_cast<int>(n));
      for (const auto& [to, from] : {std::pair{&more.q, &next.q}, std::pair{&more.k, &next.k},
                                     std::pair{&more.v, &next.v}}) {
        to->values.insert(to->values.end(), from->values.begin(), from->values.end());
        to->rows += n;
      }
      const View y_next = empty(n, s.y_cols());
      const std::vector<Span> one = {{.first = 0, .length = n, .position = position, .slot = 1}};
      op::Attention step = call(s, next.views, y_next, one);
      step.key_state = op.key_state;
      step.value_state = op.value_state;
      run(stream(), step);
      const Host all = expected(s, more);
      Host tail(n, all.cols);
      std::copy_n(all.values.end() - n * all.cols, n * all.cols, tail.values.begin());
      expect_close(host(y_next), tail, dtype(), law(s));
      position += n;
    }
  }
}

TEST_P(Attention, SpansWithoutASlotStartFromNothingAndLeaveNothing) {
  const Shape s{{2, 1, 16}, 20, 8};
  const Inputs in = inputs(s);
  const View keys = empty(1, 8 * s.k_cols()), values = empty(1, 8 * s.k_cols());
  const View y = empty(s.length, s.q_cols());
  const std::vector<Span> spans = {{.first = 0, .length = 20, .position = 500}};
  op::Attention op = call(s, in.views, y, spans);
  op.key_state = keys;
  op.value_state = values;
  run(stream(), op);
  expect_close(host(y), expected(s, in), dtype(), law(s));
  for (const double value : host(keys).values) EXPECT_TRUE(std::isnan(value));
}

TEST_P(Attention, WorksAtVeryLargePositions) {
  for (const Index length : {1, 3, 70}) {
    const Shape s{{4, 2, 16}, length + 15, 16};
    const Index capacity = 19, position = (Index{1} << 33) + 5;
    const Inputs in = inputs(s);
    const auto ring_row = [&](Index p) { return p % capacity * s.k_cols(); };
    Host keys = random(1, capacity * s.k_cols(), dtype(), 7, 100), values = keys;
    const auto put_row = [&](Index p, Index r) {
      for (Index c = 0; c < s.k_cols(); ++c) {
        keys(0, ring_row(p) + c) = in.k(r, c);
        values(0, ring_row(p) + c) = in.v(r, c);
      }
    };
    for (Index r = 0; r < 15; ++r) put_row(position - 15 + r, r);
    const View key_state = upload(keys), value_state = upload(values);
    const View views[3] = {in.views[0].block(15, length), in.views[1].block(15, length),
                           in.views[2].block(15, length)};
    const View y = empty(length, s.q_cols());
    const std::vector<Span> spans = {
        {.first = 0, .length = length, .position = position, .slot = 0}};
    op::Attention op = call(s, views, y, spans);
    op.key_state = key_state;
    op.value_state = value_state;
    run(stream(), op);
    const Host all = expected(s, in);
    Host tail(length, s.q_cols());
    for (Index r = 0; r < length; ++r)
      for (Index c = 0; c < s.q_cols(); ++c) tail(r, c) = all(r + 15, c);
    expect_close(host(y), tail, dtype(), law(s));
    for (Index r = 15; r < s.length; ++r) put_row(position - 15 + r, r);
    expect_same(host(key_state), keys);
    expect_same(host(value_state), values);
  }
}

TEST_P(Attention, SeesLongRings) {
  SAMBA_SKIP_ON_SLOWER_TIERS();
  struct Case {
    op::Heads heads;
    Index position, window, capacity, length;
  };
  // One token and a few; rings that are filled in part, rings that wrap, all kinds of chunks.
  for (const Case& c :
       {Case{{4, 2, 64}, 8700, kFull, 20000, 1}, Case{{3, 3, 16}, 12345, 4500, 4600, 1},
        Case{{8, 1, 64}, 20001, 20000, 20000, 1}, Case{{2, 2, 128}, 3001, 2900, 2901, 1},
        Case{{4, 2, 64}, 5000, kFull, 6000, 3}, Case{{2, 1, 128}, 5003, 1000, 1010, 3}}) {
    const Shape s{c.heads, c.length, c.window};
    const Index first = std::max<Index>(0, c.position - c.window + 1), seen = c.position - first;
    const Host q = random(c.length, s.q_cols(), dtype(), 1);
    const Host k = random(seen + c.length, s.k_cols(), dtype(), 2),
               v = random(seen + c.length, s.v_cols(), dtype(), 3);
    const View key_state = empty(1, c.capacity * s.k_cols()),
               value_state = empty(1, c.capacity * s.v_cols());
    const View keys = upload(k), values = upload(v);
    for (Index r = 0; r < seen; ++r) {
      const Index place = (first + r) % c.capacity;
      copy(key_state.columns(place * s.k_cols(), s.k_cols()), keys.block(r, 1));
      copy(value_state.columns(place * s.v_cols(), s.v_cols()), values.block(r, 1));
    }
    const View views[3] = {upload(q), keys.block(seen, c.length), values.block(seen, c.length)};
    const View y = empty(c.length, s.y_cols()), lse = empty(c.length, c.heads.heads, exact());
    const std::vector<Span> spans = {
        {.first = 0, .length = c.length, .position = c.position, .slot = 0}};
    op::Attention op = call(s, views, y, spans);
    op.lse = lse;
    op.key_state = key_state;
    op.value_state = value_state;
    run(stream(), op);
    Host expected_y(c.length, s.y_cols()), expected_lse(c.length, c.heads.heads);
    for (Index i = 0; i < c.length; ++i)
      for (Index h = 0; h < c.heads.heads; ++h) {
        const Index g = h / (c.heads.heads / c.heads.kv_heads), width = c.heads.width;
        const Index from = std::max<Index>(0, c.position + i - c.window + 1) - first;
        std::vector<double> scores;
        for (Index j = from; j <= seen + i; ++j) {
          double dot = 0;
          for (Index d = 0; d < width; ++d) dot += q(i, h * width + d) * k(j, g * width + d);
          scores.push_back(s.scale() * dot);
        }
        const double largest = *std::max_element(scores.begin(), scores.end());
        double sum = 0;
        for (double& score : scores) sum += score = std::exp(score - largest);
        expected_lse(i, h) = largest + std::log(sum);
        for (Index j = from; j <= seen + i; ++j)
          for (Index d = 0; d < width; ++d)
            expected_y(i, h * width + d) +=
                scores[static_cast<std::size_t>(j - from)] / sum * v(j, g * width + d);
      }
    const Law within{.terms = seen + c.length + c.heads.width,
                     .rounded = dtype(),
                     .rms = dtype() == DType::bf16 ? 0.0 : 1.0};
    expect_close(host(y), expected_y, dtype(), within);
    expect_close(host(lse), expected_lse, exact(), within.terms);
  }
}

TEST_P(Attention, LargeScoresDoNotOverflow) {
  const Shape s{{2, 2, 16}, 120, 50};
  Host q = random(s.length, s.q_cols(), DType::f64, 1, 40),
       k = random(s.length, s.k_cols(), DType::f64, 2, 40);
  const Host v = random(s.length, s.k_cols(), dtype(), 3);
  // Whole numbers, so that every tier finds the same scores.
  for (Host* x : {&q, &k})
    for (double& value : x->values) value = std::clamp(std::round(value), -128.0, 128.0);
  const View views[3] = {upload(q), upload(k), upload(v)};
  const View y = empty(s.length, s.q_cols());
  const std::vector<Span> spans = {{.first = 0, .length = s.length, .position = 0}};
  run(stream(), call(s, views, y, spans));
  expect_close(host(y), reference::attention(q, k, v, 2, 2, s.window, s.scale()), dtype(), law(s));
}

TEST_P(Attention, ScoresMayLieAnywhere) {
  // Above and below zero, and growing from key to key, for which sums so far are scaled anew: what
  // is added to the scores of key i of n.
  const std::vector<std::function<double(double, double)>> added = {
      [](double, double) { return -60; },
      [](double, double) { return 60; },
      [](double i, double n) { return std::round(90 * (n - i) / n) - 70; },
      [](double i, double n) { return std::round(90 * i / n) - 20; },
      [](double i, double) { return i == 77 ? 110 : 0; },
      [](double i, double) { return static_cast<int>(i / 40) % 3 * 13 - 20; }};
  for (const Index width : {Index{16}, Index{64}, Index{128}, Index{256}}) {
    const auto heads = static_cast<Index>(added.size());
    const Shape s{{heads, heads, width}, 450, kFull};
    Inputs in = inputs(s);
    // Whole numbers, so that every tier finds the same scores.
    for (Host* x : {&in.q, &in.k})
      for (double& value : x->values) value = std::round(value);
    for (Index h = 0; h < heads; ++h)
      for (Index i = 0; i < s.length; ++i) {
        in.q(i, h * width) = 4;
        in.k(i, h * width) = std::round(added[static_cast<std::size_t>(h)](
                                            static_cast<double>(i), static_cast<double>(s.length)) /
                                        (4 * s.scale()));
      }
    const View views[3] = {upload(in.q), upload(in.k), in.views[2]};
    in.k = host(views[1]);
    const View y = empty(s.length, s.y_cols()), lse = empty(s.length, heads, exact());
    const std::vector<Span> spans = {{.first = 0, .length = s.length, .position = 0}};
    op::Attention op = call(s, views, y, spans);
    op.lse = lse;
    run(stream(), op);
    Host expected_lse;
    expect_close(host(y), expected(s, in, &expected_lse), dtype(), law(s));
    expect_close(host(lse), expected_lse, exact(), s.terms());
  }
}

TEST_P(Attention, TwiceIsTheSame) {
  const Shape s{{4, 2, 24}, 400, 70};
  const Inputs in = inputs(s);
  const View a = empty(s.length, s.q_cols()), b = empty(s.length, s.q_cols());
  const std::vector<Span> spans = {{.first = 0, .length = s.length, .position = 0}};
  run(stream(), call(s, in.views, a, spans));
  run(stream(), call(s, in.views, b, spans));
  expect_same(host(a), host(b));
}

TEST_P(Attention, RefusesWhatItCannotDo) {
  const Shape s{{4, 2, 8}, 10, 6};
  const Inputs in = inputs(s);
  const View y = empty(s.length, s.q_cols());
  const std::vector<Span> spans = {{.first = 0, .length = 10, .position = 0, .slot = 1}};
  const op::Attention good = call(s, in.views, y, spans);
  op::Attention bad = good;
  bad.heads.kv_heads = 3;
  EXPECT_THROW(run(stream(), bad), Error);
  bad = good;
  bad.window = 0;
  EXPECT_THROW(run(stream(), bad), Error);
  bad = good;
  bad.k = in.views[1].block(0, 9);
  EXPECT_THROW(run(stream(), bad), Error);
  bad = good;
  bad.key_state = zeros(2, 5 * s.k_cols(), dtype());  // holds 5 keys of the 6
  bad.value_state = zeros(2, 5 * s.k_cols(), dtype());
  EXPECT_THROW(run(stream(), bad), Error);
  bad.key_state = zeros(1, 6 * s.k_cols(), dtype());  // has no slot 1
  bad.value_state = zeros(1, 6 * s.k_cols(), dtype());
  EXPECT_THROW(run(stream(), bad), Error);
  bad.key_state = zeros(2, 6 * s.k_cols(), dtype());
  EXPECT_THROW(run(stream(), bad), Error);
  bad.value_state = zeros(2, 6 * s.k_cols(), dtype());
  EXPECT_NO_THROW(run(stream(), bad));
  bad.heads.value_width = 9;
  EXPECT_THROW(run(stream(), bad), Error);
}

TEST_P(Attention, MergesPartsIntoTheWhole) {
  for (const Shape& s : {Shape{{4, 2, 16}, 90, kFull}, Shape{{3, 3, 5}, 33, kFull}}) {
    // The whole is the last `window` keys and those before them, which are those of a stream that
    // is late by the window.
    const Index window = 20, late = s.length - window;
    const Inputs in = inputs(s);
    const View near_y = empty(s.length, s.y_cols(), dtype(), 3),
               near_lse = empty(s.length, s.heads.heads, exact());
    const View far_y = empty(late, s.y_cols()), far_lse = empty(late, s.heads.heads, exact(), 1);
    const std::vector<Span> spans = {{.first = 0, .length = s.length, .position = 0}};
    op::Attention near = call(s, in.views, near_y, spans);
    near.lse = near_lse;
    near.window = window;
    run(stream(), near);
    const View views[3] = {in.views[0].block(window, late), in.views[1].block(0, late),
                           in.views[2].block(0, late)};
    const std::vector<Span> late_spans = {{.first = 0, .length = late, .position = 0}};
    op::Attention far = call(s, views, far_y, late_spans);
    far.lse = far_lse;
    run(stream(), far);
    run(stream(), op::AttentionMerge{.y = near_y.block(window, late),
                                     .lse = near_lse.block(window, late),
                                     .other = far_y,
                                     .other_lse = far_lse});
    Law parts = law(s);
    parts.roundings = 2;
    expect_close(host(near_y), expected(s, in), dtype(), parts);
  }
}

}  // namespace
}  // namespace samba::test
