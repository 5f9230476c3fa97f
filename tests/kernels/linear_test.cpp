#include "kernels/linear.h"

#include <cmath>
#include <limits>

#include "core/error.h"
#include "kernels/rms_norm.h"
#include "kernels/run.h"
#include "kernels/swiglu.h"
#include "support/gradient.h"
#include "support/kernel_test.h"
#include "support/reference.h"

namespace samba::test {
namespace {

using reference::transposed;

struct Sizes {
  Index rows, inputs, outputs;
};

// 1, odd sizes, no multiples of a tile; some cross the blocks of k, rows and columns; others lie as
// a GPU's tensor cores and its library want them, the last ones with tiles for all multiprocessors.
const std::vector<Sizes> kSizes{{1, 1, 1},       {1, 3, 17},      {3, 17, 65},     {2, 65, 127},
                                {5, 200, 3},     {17, 127, 65},   {65, 3, 200},    {37, 65, 200},
                                {127, 17, 1},    {7, 1000, 33},   {530, 901, 67},  {1100, 33, 130},
                                {1, 2056, 100},  {13, 264, 1000}, {30, 72, 40},    {100, 512, 72},
                                {300, 520, 264}, {12, 264, 1212}, {40, 264, 1212}, {12, 520, 2200},
                                {40, 520, 2200}};

class Linear : public KernelTest {
 protected:
  /// A view of x inside a wider matrix of NaN: whoever reads beyond a row is found out.
  View island(const Host& x) {
    const View wide = empty(x.rows + 1, x.cols + 17, dtype());
    const View v = wide.block(0, x.rows).columns(1, x.cols);
    copy(v, upload(x));
    return v;
  }
  /// What PackLinear writes of w.
  View pack(ConstView w) {
    const View panels =
        empty(op::PackLinear::panel_rows(w.rows), op::PackLinear::panel_cols(w.cols));
    run(stream(), op::PackLinear{.panels = panels, .w = w});
    return panels;
  }
  View product(ConstView x, ConstView w, DType out) {
    const View y = empty(x.rows, w.rows, out, 3);
    run(stream(), op::Linear{.y = y, .x = x, .w = w});
    return y;
  }
};
SAMBA_KERNEL_TEST(Linear);

TEST_P(Linear, MatchesTheDefinition) {
  for (const auto& [rows, inputs, outputs] : kSizes) {
    SCOPED_TRACE(text_of(rows, " x ", inputs, " x ", outputs));
    const Host x = random(rows, inputs, dtype(), 1), w = random(outputs, inputs, dtype(), 2);
    const Host expected = reference::linear(x, w);
    expect_close(host(product(upload(x), upload(w), dtype())), expected, dtype(), inputs);
    expect_close(host(product(island(x), island(w), exact())), expected, exact(), inputs);
  }
}

TEST_P(Linear, AddsToWhatIsThere) {
  for (const auto& [rows, inputs, outputs] : kSizes) {
    SCOPED_TRACE(text_of(rows, " x ", inputs, " x ", outputs));
    const Host x = random(rows, inputs, dtype(), 1), w = random(outputs, inputs, dtype(), 2);
    const Host old = random(rows, outputs, exact(), 3);
    Host expected = reference::linear(x, w);
    for (std::size_t i = 0; i < old.values.size(); ++i) expected.values[i] += old.values[i];
    const View y = upload(old, exact(), 9);
    run(stream(), op::Linear{.y = y, .x = upload(x), .w = upload(w), .add = true});
    expect_close(host(y), expected, exact(), inputs + 1);
  }
}

TEST_P(Linear, ABiasBeginsTheSums) {
  for (const auto& [rows, inputs, outputs] : kSizes) {
    SCOPED_TRACE(text_of(rows, " x ", inputs, " x ", outputs));
    const Host x = random(rows, inputs, dtype(), 1), w = random(outputs, inputs, dtype(), 2);
    const Host bias = random(1, outputs, exact(), 3);
    Host expected = reference::linear(x, w), rows_of_bias(rows, outputs);
    for (Index r = 0; r < rows; ++r)
      for (Index o = 0; o < outputs; ++o) {
        expected(r, o) += bias(0, o);
        rows_of_bias(r, o) = bias(0, o);
      }
    const View y = empty(rows, outputs, exact(), 1), narrow = empty(rows, outputs, dtype(), 2);
    const View packed = empty(rows, outputs, exact(), 1), sum = upload(rows_of_bias, exact());
    const View b = upload(bias, exact(), 5), weight = upload(w);
    run(stream(), op::Linear{.y = y, .x = upload(x), .w = weight, .bias = b});
    run(stream(), op::Linear{.y = narrow, .x = upload(x), .w = weight, .bias = b});
    run(stream(),
        op::Linear{.y = packed, .x = upload(x), .w = pack(weight), .bias = b, .packed = true});
    run(stream(), op::Linear{.y = sum, .x = upload(x), .w = weight, .add = true});
    expect_close(host(y), expected, exact(), inputs + 1);
    expect_close(host(narrow), expected, dtype(), inputs + 1);
    expect_same(host(packed), host(y));
    // A GPU's library adds a bias behind the sums.
    if (GetParam().cuda)
      expect_close(host(sum), expected, exact(), inputs + 1);
    else
      expect_same(host(sum), host(y));
  }
}

TEST_P(Linear, GivesTheSameBitsFromPackedWeights) {
  for (const auto& [rows, inputs, outputs] : kSizes) {
    SCOPED_TRACE(text_of(rows, " x ", inputs, " x ", outputs));
    const View x = island(random(rows, inputs, dtype(), 1));
    const View w = island(random(outputs, inputs, dtype(), 2));
    const View y = empty(rows, outputs, exact(), 1);
    run(stream(), op::Linear{.y = y, .x = x, .w = pack(w), .packed = true});
    expect_same(host(y), host(product(x, w, exact())));
  }
}

constexpr double kEps = 1e-5;

/// x over its rms times w, row by row.
Host normed(const Host& x, const Host& w) {
  Host y(x.rows, x.cols);
  for (Index r = 0; r < x.rows; ++r) {
    double squares = 0;
    for (Index c = 0; c < x.cols; ++c) squares += x(r, c) * x(r, c);
    const double rms = std::sqrt(squares / static_cast<double>(x.cols) + kEps);
    for (Index c = 0; c < x.cols; ++c) y(r, c) = x(r, c) / rms * w(0, c);
  }
  return y;
}

/// silu of the left half times the right one.
Host gated(const Host& x) {
  Host y(x.rows, x.cols / 2);
  for (Index r = 0; r < y.rows; ++r)
    for (Index c = 0; c < y.cols; ++c) y(r, c) = reference::silu(x(r, c)) * x(r, y.cols + c);
  return y;
}

TEST_P(Linear, NormsTheRowsThatItReads) {
  // Rows of which a warp of a GPU norms two places, and rows too wide for that.
  std::vector<Sizes> sizes = kSizes;
  sizes.insert(sizes.end(), {{1, 4872, 40}, {1, 8456, 24}});
  for (const auto& [rows, inputs, outputs] : sizes) {
    SCOPED_TRACE(text_of(rows, " x ", inputs, " x ", outputs));
    const Host x = random(rows, inputs, exact(), 1, 3), w = random(outputs, inputs, dtype(), 2);
    const Host norm = random(1, inputs, exact(), 3), old = random(rows, outputs, exact(), 4);
    const View residual = upload(x, exact(), 4), weight = upload(w), scales = upload(norm, exact());
    const View apart = empty(rows, inputs), two = upload(old, exact()), one = upload(old, exact());
    run(stream(), op::RmsNorm{.y = apart, .x = residual, .w = scales, .eps = kEps});
    run(stream(), op::Linear{.y = two, .x = apart, .w = weight, .add = true});
    const auto together = [&](View y, bool packed, bool add) {
      run(stream(), op::Linear{.y = y,
                               .x = residual,
                               .w = packed ? pack(weight) : weight,
                               .packed = packed,
                               .add = add,
                               .norm = scales,
                               .eps = kEps});
      return host(y);
    };
    const Host expected = reference::linear(normed(x, norm), w);
    const Law law{.terms = inputs, .rounded = dtype(), .roundings = 2};
    expect_close(together(empty(rows, outputs), false, false), expected, dtype(), law);
    expect_same(together(one, false, true), host(two));
    expect_same(together(empty(rows, outputs), true, false),
                together(empty(rows, outputs), false, false));
  }
}

TEST_P(Linear, GatesWhatItHasMultiplied) {
  for (const auto& [rows, inputs, half] : kSizes) {
    SCOPED_TRACE(text_of(rows, " x ", inputs, " x 2 x ", half));
    const Host x = random(rows, inputs, dtype(), 1), w = random(2 * half, inputs, dtype(), 2);
    const Host bias = random(1, 2 * half, exact(), 3);
    const View in = upload(x), weight = upload(w), b = upload(bias, exact());
    const View both = empty(rows, 2 * half), apart = empty(rows, half);
    run(stream(), op::Linear{.y = both, .x = in, .w = weight, .bias = b});
    run(stream(),
        op::SwiGlu{.y = apart, .gate = both.columns(0, half), .up = both.columns(half, half)});
    const View one = empty(rows, half, dtype(), 8), packed = empty(rows, half);
    run(stream(), op::Linear{.y = one, .x = in, .w = weight, .bias = b, .gated = true});
    run(stream(),
        op::Linear{
            .y = packed, .x = in, .w = pack(weight), .bias = b, .packed = true, .gated = true});
    Host sums = reference::linear(x, w);
    for (Index r = 0; r < rows; ++r)
      for (Index o = 0; o < 2 * half; ++o) sums(r, o) += bias(0, o);
    // What a sum is off by reaches the result times the other factor: the largest sum, or its silu,
    // whose slope is below 1.1.
    double largest = 0;
    for (const double sum : sums.values) largest = std::max(largest, std::abs(sum));
    const Law law{.terms = inputs + 1,
                  .rounded = dtype(),
                  .roundings = 1,
                  .rms = 2.1 * largest * rms(sums.values)};
    expect_close(host(one), gated(sums), dtype(), law);
    expect_same(host(one), host(apart));
    expect_same(host(packed), host(apart));
  }
}

TEST_P(Linear, RotatesWhatItHasMultiplied) {
  struct Case {
    Index rows, inputs, outputs, heads, width;
  };
  for (const auto& [rows, inputs, outputs, heads, width] :
       {Case{1, 72, 100, 2, 32}, Case{3, 64, 96, 6, 16}, Case{5, 136, 200, 2, 64},
        Case{9, 65, 40, 2, 20}, Case{20, 40, 80, 5, 16}, Case{140, 64, 64, 1, 64},
        Case{2, 32, 272, 1, 272}, Case{40, 136, 2304, 4, 64}}) {
    SCOPED_TRACE(text_of(rows, " x ", inputs, " x ", outputs, ", heads of ", width));
    const Host x = random(rows, inputs, exact(), 1), w = random(outputs, inputs, dtype(), 2);
    const View residual = upload(x, exact()), weight = upload(w);
    const View norm = upload(random(1, inputs, exact(), 3), exact());
    const View bias = upload(random(1, outputs, exact(), 4), exact());
    std::vector<Span> spans{{0, 1, 1000, 1}};
    if (rows > 1) spans.push_back({1, rows - 1, 77, 0});
    const Batch batch = batch_of(spans);
    const auto rope = [&](View y) {
      return op::Rope{
          .x = y.columns(0, heads * width), .heads = heads, .base = 10000, .batch = batch};
    };
    const auto product = [&](View y, const op::Rope& then) {
      run(stream(), op::Linear{.y = y,
                               .x = residual,
                               .w = weight,
                               .bias = bias,
                               .norm = norm,
                               .eps = kEps,
                               .rope = then});
    };
    const View apart = empty(rows, outputs), one = empty(rows, outputs, dtype(), 8);
    product(apart, {});
    const Host raw = host(apart);
    run(stream(), rope(apart));
    product(one, rope(one));
    expect_same(host(one), host(apart));
    Host expected = raw;
    for (const Span& span : spans) {
      Host part(span.length, heads * width);
      for (Index r = 0; r < part.rows; ++r)
        for (Index c = 0; c < part.cols; ++c) part(r, c) = raw(span.first + r, c);
      part = reference::rope(part, heads, 10000, span.position);
      for (Index r = 0; r < part.rows; ++r)
        for (Index c = 0; c < part.cols; ++c) expected(span.first + r, c) = part(r, c);
    }
    expect_close(host(one), expected, dtype(), 2);
  }
}

TEST_P(Linear, ConvolvesWhatItHasMultiplied) {
  struct Case {
    Index rows, inputs, outputs, channels, taps, length;
  };
  for (const auto& [rows, inputs, outputs, channels, taps, length] :
       {Case{1, 72, 100, 48, 4, 1}, Case{3, 64, 96, 96, 4, 1}, Case{5, 136, 200, 32, 3, 1},
        Case{9, 65, 40, 16, 4, 1}, Case{20, 40, 80, 13, 4, 1}, Case{140, 64, 64, 32, 4, 1},
        Case{6, 32, 272, 48, 4, 2}, Case{40, 136, 2304, 96, 4, 1}}) {
    SCOPED_TRACE(text_of(rows, " x ", inputs, " x ", outputs, ", ", channels, " channels"));
    const View x = upload(random(rows, inputs, dtype(), 1));
    const View w = upload(random(outputs, inputs, dtype(), 2, 0.1));
    const Host taps_of = random(channels, taps, exact(), 3), bias = random(1, channels, exact(), 4);
    const View taps_there = upload(taps_of, exact()), bias_there = upload(bias, exact());
    const Index sequences = rows / length;
    // What is left by two passes, the second behind the first.
    const auto twice = [&](bool together) {
      const View state = empty(sequences + 1, (taps - 1) * channels, exact());
      std::vector<Host> all;
      for (const Index position : {Index{0}, length}) {
        std::vector<Span> spans;
        for (Index s = 0; s < sequences; ++s)
          spans.push_back({s * length, length, position, sequences - s});
        const View y = empty(rows, outputs, dtype(), 4), c = empty(rows, channels, dtype(), 4);
        const op::CausalConv1d conv{.y = c,
                                    .x = y.columns(0, channels),
                                    .w = taps_there,
                                    .bias = bias_there,
                                    .batch = batch_of(spans),
                                    .state = state};
        run(stream(),
            op::Linear{.y = y, .x = x, .w = w, .conv = together ? conv : op::CausalConv1d{}});
        if (!together) run(stream(), conv);
        all.insert(all.end(), {host(y), host(c)});
        if (position > 0) continue;
        const Host raw = host(y.columns(0, channels));
        expect_close(host(c), reference::causal_conv1d(raw, taps_of, bias, spans), dtype(),
                     taps + 1);
      }
      all.push_back(host(state.block(1, sequences)));
      return all;
    };
    const std::vector<Host> apart = twice(false), together = twice(true);
    for (std::size_t i = 0; i < apart.size(); ++i) expect_same(together[i], apart[i]);
  }
}

// Sizes that a GPU shares out among more and fewer warps.
TEST_P(Linear, GivesARowOfTheStreamTheSameBitsInAnyCompany) {
  constexpr Index kMost = 70;
  for (const auto& [inputs, half] : {std::pair<Index, Index>{1024, 40},
                                     {136, 36},
                                     {264, 300},
                                     {2048, 12},
                                     {72, 2100},
                                     {264, 604},
                                     {520, 1100}}) {
    SCOPED_TRACE(text_of(inputs, " x 2 x ", half));
    const View x = upload(random(kMost, inputs, exact(), 1), exact());
    const View w = upload(random(2 * half, inputs, dtype(), 2));
    const View norm = upload(random(1, inputs, exact(), 3), exact());
    const Host old = random(kMost, 2 * half, exact(), 4);
    const auto product = [&](Index first, Index rows, bool gated) {
      const View y = gated ? empty(rows, half) : upload(old, exact()).block(first, rows);
      run(stream(), op::Linear{.y = y,
                               .x = x.block(first, rows),
                               .w = w,
                               .add = !gated,
                               .gated = gated,
                               .norm = norm,
                               .eps = kEps});
      return host(y);
    };
    for (const bool gated : {false, true}) {
      const Host all = product(0, kMost, gated);
      for (const Index rows : {1, 2, 4, 5, 8, 9, 17, 33}) {
        Host part(rows, all.cols);
        for (Index r = 0; r < rows; ++r)
          for (Index c = 0; c < all.cols; ++c) part(r, c) = all(20 + r, c);
        expect_same(product(20, rows, gated), part);
      }
    }
  }
}

TEST_P(Linear, GivesARowTheSameBitsInAnyCompany) {
  for (const Index inputs : {1001, 1024}) {
    const Index outputs = 127;
    const View x = upload(random(100, inputs, dtype(), 1));
    const View w = upload(random(outputs, inputs, dtype(), 2));
    const View all = product(x, w, exact());
    for (const Index rows : {1, 2, 6, 7, 15, 31, 64}) {
      const View some = product(x.block(20, rows), w, exact());
      expect_same(host(some), host(all.block(20, rows)));
    }
  }
}

TEST_P(Linear, GivesTheSameBitsWithAnyNumberOfThreads) {
  for (const auto& [rows, inputs, outputs] : {Sizes{200, 401, 65}, Sizes{1, 700, 500}}) {
    const View x = upload(random(rows, inputs, dtype(), 1));
    const View w = upload(random(outputs, inputs, dtype(), 2));
    const View y = product(x, w, exact());
    for (const int threads : {1, 2, 3}) {
      Stream other = GetParam().stream(threads);
      const View again = empty(rows, outputs, exact());
      run(other, op::Linear{.y = again, .x = x, .w = w});
      expect_same(host(again), host(y));
    }
  }
}

TEST_P(Linear, BackwardMatchesTheDefinition) {
  for (const auto& [rows, inputs, outputs] : kSizes) {
    SCOPED_TRACE(text_of(rows, " x ", inputs, " x ", outputs));
    const Host x = random(rows, inputs, dtype(), 1), w = random(outputs, inputs, dtype(), 2);
    const Host dy = random(rows, outputs, dtype(), 3), old = random(outputs, inputs, exact(), 4);
    Host expected_dw = reference::linear(transposed(dy), transposed(x));
    for (std::size_t i = 0; i < old.values.size(); ++i) expected_dw.values[i] += old.values[i];
    const Host old_bias = random(1, outputs, exact(), 5);
    Host expected_dbias = old_bias;
    for (Index r = 0; r < rows; ++r)
      for (Index o = 0; o < outputs; ++o) expected_dbias(0, o) += dy(r, o);
    const View dx = empty(rows, inputs, dtype(), 2), dw = upload(old, exact(), 3);
    const View dbias = upload(old_bias, exact());
    run(stream(),
        op::LinearBackward{
            .dx = dx, .dw = dw, .dbias = dbias, .dy = island(dy), .x = island(x), .w = island(w)});
    expect_close(host(dx), reference::linear(dy, transposed(w)), dtype(), outputs);
    expect_close(host(dw), expected_dw, exact(), rows + 1);
    expect_close(host(dbias), expected_dbias, exact(), rows + 1);
  }
}

TEST_P(Linear, BackwardOverwritesTheWeightsGradientAsIfItWereZero) {
  for (const Index rows : {17, 300}) {
    const View x = upload(random(rows, 128, dtype(), 1)), dy = upload(random(rows, 64, dtype(), 2));
    const View added = zeros(64, 128, exact()), written = empty(64, 128, exact());
    fill(written, std::numeric_limits<double>::quiet_NaN());
    run(stream(), op::LinearBackward{.dw = added, .dy = dy, .x = x});
    run(stream(), op::LinearBackward{.dw = written, .dy = dy, .x = x, .add_dw = false});
    expect_same(host(written), host(added));
  }
}

TEST_P(Linear, BackwardAddsToTheInputsGradient) {
  const Host w = random(65, 130, dtype(), 2), dy = random(17, 65, dtype(), 3);
  for (const DType type : {exact(), dtype()}) {
    const Host old = random(17, 130, type, 4);
    Host expected = reference::linear(dy, transposed(w));
    for (std::size_t i = 0; i < old.values.size(); ++i) expected.values[i] += old.values[i];
    const View dx = upload(old, type, 3);
    run(stream(), op::LinearBackward{.dx = dx, .dy = upload(dy), .w = upload(w), .add_dx = true});
    expect_close(host(dx), expected, type, 66);
  }
}

TEST_P(Linear, BackwardGivesTheSameBitsTwiceAndInPieces) {
  const Index rows = 150, inputs = 70, outputs = 90;
  const View x = upload(random(rows, inputs, dtype(), 1)),
             w = upload(random(outputs, inputs, dtype(), 2));
  const View dy = upload(random(rows, outputs, dtype(), 3));
  const auto backward = [&](const std::vector<Index>& cuts, int threads) {
    Stream other = GetParam().stream(threads);
    const View dx = empty(rows, inputs), dw = zeros(outputs, inputs, exact());
    const View dbias = zeros(1, outputs, exact());
    for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
      const Index first = cuts[i], count = cuts[i + 1] - first;
      run(other, op::LinearBackward{.dx = dx.block(first, count),
                                    .dw = dw,
                                    .dbias = dbias,
                                    .dy = dy.block(first, count),
                                    .x = x.block(first, count),
                                    .w = w});
    }
    return std::tuple{host(dx), host(dw), host(dbias)};
  };
  const auto [dx, dw, dbias] = backward({0, rows}, 1);
  // Even cuts: pairs of bf16 may be multiplied together.
  for (const int threads : {2, 3})
    for (const std::vector<Index>& cuts : {std::vector<Index>{0, rows}, {0, 2, 64, rows}}) {
      const auto [dx_again, dw_again, dbias_again] = backward(cuts, threads);
      expect_same(dx_again, dx);
      expect_same(dw_again, dw);
      expect_same(dbias_again, dbias);
    }
}

// ---- sizes of a GPU's own products
// --------------------------------------------------------------- Tiles of 128 x 256 or, gated, 128
// x 128, in pairs one below the other, 64 of the depth at a time: just above an edge and just
// below, depths that are cut among workers, and more tiles than there are workers. Rows lie as its
// copies want them.

const std::vector<Sizes> kTileSizes{{129, 8, 136},    {256, 64, 256},   {257, 72, 264},
                                    {385, 200, 520},  {130, 1096, 264}, {300, 2056, 136},
                                    {4360, 64, 1032}, {200, 72, 18440}};

/// The first and last rows, and some between.
std::vector<Index> some_rows(Index rows) {
  std::vector<Index> picked;
  for (const Index row :
       {Index{0}, Index{63}, Index{64}, Index{127}, Index{128}, rows / 2, rows - 1})
    if (row < rows) picked.push_back(row);
  return picked;
}
Host rows_of(const Host& x, const std::vector<Index>& rows) {
  Host some(std::ssize(rows), x.cols);
  for (Index r = 0; r < some.rows; ++r)
    for (Index c = 0; c < x.cols; ++c) some(r, c) = x(rows[static_cast<std::size_t>(r)], c);
  return some;
}

TEST_P(Linear, MatchesTheDefinitionAtTheEdgesOfTiles) {
  SAMBA_SKIP_ON_SLOWER_TIERS();
  for (const auto& [rows, inputs, outputs] : kTileSizes) {
    SCOPED_TRACE(text_of(rows, " x ", inputs, " x ", outputs));
    const Host x = random(rows, inputs, dtype(), 1), w = random(outputs, inputs, dtype(), 2);
    const Host old = random(rows, outputs, exact(), 3), bias = random(1, outputs, exact(), 4);
    const std::vector<Index> picked = some_rows(rows);
    const Host expected = reference::linear(rows_of(x, picked), w);
    Host added = expected, biased = expected;
    for (Index r = 0; r < expected.rows; ++r)
      for (Index o = 0; o < outputs; ++o) {
        added(r, o) += old(picked[static_cast<std::size_t>(r)], o);
        biased(r, o) += bias(0, o);
      }
    const View from = upload(x, dtype(), 8), weight = upload(w, dtype(), 16);
    const View y = empty(rows, outputs, dtype(), 8), again = empty(rows, outputs, dtype(), 24);
    const View wide = empty(rows, outputs, exact(), 4), sum = upload(old, exact(), 8);
    const View with_bias = empty(rows, outputs), wide_with_bias = empty(rows, outputs, exact());
    const View b = upload(bias, exact());
    run(stream(), op::Linear{.y = y, .x = from, .w = weight});
    run(stream(), op::Linear{.y = again, .x = from, .w = weight});
    run(stream(), op::Linear{.y = wide, .x = from, .w = weight});
    run(stream(), op::Linear{.y = sum, .x = from, .w = weight, .add = true});
    run(stream(), op::Linear{.y = with_bias, .x = from, .w = weight, .bias = b});
    run(stream(), op::Linear{.y = wide_with_bias, .x = from, .w = weight, .bias = b});
    expect_close(rows_of(host(y), picked), expected, dtype(), inputs);
    expect_close(rows_of(host(wide), picked), expected, exact(), inputs);
    expect_close(rows_of(host(sum), picked), added, exact(), inputs + 1);
    expect_close(rows_of(host(with_bias), picked), biased, dtype(), inputs + 1);
    expect_close(rows_of(host(wide_with_bias), picked), biased, exact(), inputs + 1);
    expect_same(host(again), host(y));
  }
}

TEST_P(Linear, BackwardMatchesTheDefinitionAtTheEdgesOfTiles) {
  SAMBA_SKIP_ON_SLOWER_TIERS();
  for (const auto& [rows, inputs, outputs] : kTileSizes) {
    SCOPED_TRACE(text_of(rows, " x ", inputs, " x ", outputs));
    const Host dy = random(rows, inputs, dtype(), 1), w = random(inputs, outputs, dtype(), 2);
    const Host old = random(rows, outputs, exact(), 3);
    const std::vector<Index> picked = some_rows(rows);
    const Host expected = reference::linear(rows_of(dy, picked), transposed(w));
    Host added = expected;
    for (Index r = 0; r < expected.rows; ++r)
      for (Index o = 0; o < outputs; ++o)
        added(r, o) += old(picked[static_cast<std::size_t>(r)], o);
    const View from = upload(dy, dtype(), 8), weight = upload(w, dtype(), 16);
    const View dx = empty(rows, outputs, dtype(), 8), wide = empty(rows, outputs, exact(), 4);
    const View sum = upload(old, exact(), 8);
    run(stream(), op::LinearBackward{.dx = dx, .dy = from, .w = weight});
    run(stream(), op::LinearBackward{.dx = wide, .dy = from, .w = weight});
    run(stream(), op::LinearBackward{.dx = sum, .dy = from, .w = weight, .add_dx = true});
    expect_close(rows_of(host(dx), picked), expected, dtype(), inputs);
    expect_close(rows_of(host(wide), picked), expected, exact(), inputs);
    expect_close(rows_of(host(sum), picked), added, exact(), inputs + 1);
  }
}

TEST_P(Linear, BackwardByWeightsMatchesTheDefinitionAtTheEdgesOfTiles) {
  SAMBA_SKIP_ON_SLOWER_TIERS();
  for (const auto& [outputs, rows, inputs] : kTileSizes) {
    SCOPED_TRACE(text_of(rows, " x ", inputs, " x ", outputs));
    // More than a GPU's few rows.
    const Index tokens = rows + 128;
    const Host x = random(tokens, inputs, dtype(), 1);
    const Host dy = random(tokens, (outputs + 7) / 8 * 8, dtype(), 2);
    const Host old = random(dy.cols, inputs, exact(), 3);
    const std::vector<Index> picked = some_rows(dy.cols);
    Host expected = reference::linear(rows_of(transposed(dy), picked), transposed(x));
    const Host some_old = rows_of(old, picked);
    for (std::size_t i = 0; i < some_old.values.size(); ++i)
      expected.values[i] += some_old.values[i];
    const View dw = upload(old, exact(), 4), again = upload(old, exact(), 12);
    const View from = upload(dy, dtype(), 8), by = upload(x, dtype(), 16);
    run(stream(), op::LinearBackward{.dw = dw, .dy = from, .x = by});
    run(stream(), op::LinearBackward{.dw = again, .dy = from, .x = by});
    expect_close(rows_of(host(dw), picked), expected, exact(), tokens + 1);
    expect_same(host(again), host(dw));
  }
}

// ---- gated ---------------------------------------------------------------------------------

const std::vector<Sizes> kGatedSizes{{1, 3, 5},       {17, 65, 40},    {129, 72, 64},
                                     {300, 72, 136},  {257, 2056, 72}, {257, 2056, 136},
                                     {385, 200, 520}, {2200, 64, 1160}};

TEST_P(Linear, GatedIsTheProductAndSwiGlu) {
  SAMBA_SKIP_ON_SLOWER_TIERS();
  for (const auto& [rows, inputs, width] : kGatedSizes) {
    SCOPED_TRACE(text_of(rows, " x ", inputs, " x ", width));
    const Host x = random(rows, inputs, dtype(), 1);
    const Host w = random(2 * width, inputs, dtype(), 2, 1 / std::sqrt(inputs));
    const View from = upload(x, dtype(), 8), weight = upload(w, dtype(), 8);
    const View product = empty(rows, 2 * width, dtype(), 16), y = empty(rows, width, dtype(), 8);
    const View alone = empty(rows, width), packed = empty(rows, width);
    run(stream(), op::Linear{.y = y, .x = from, .w = weight, .gated = true, .product = product});
    run(stream(), op::Linear{.y = alone, .x = from, .w = weight, .gated = true});
    run(stream(),
        op::Linear{.y = packed, .x = from, .w = pack(weight), .packed = true, .gated = true});
    const std::vector<Index> picked = some_rows(rows);
    expect_close(rows_of(host(product), picked), reference::linear(rows_of(x, picked), w), dtype(),
                 inputs);
    const View hidden = empty(rows, width);
    run(stream(),
        op::SwiGlu{
            .y = hidden, .gate = product.columns(0, width), .up = product.columns(width, width)});
    expect_same(host(y), host(hidden));
    expect_same(host(alone), host(y));
    expect_same(host(packed), host(y));
  }
}

TEST_P(Linear, BackwardOfAGatedProductIsThatOfSwiGlu) {
  SAMBA_SKIP_ON_SLOWER_TIERS();
  for (const auto& [rows, outputs, width] : kGatedSizes) {
    SCOPED_TRACE(text_of(rows, " x ", outputs, " x ", width));
    const Host gate_up = random(rows, 2 * width, dtype(), 1, 2);
    const Host dy = random(rows, outputs, dtype(), 2);
    const Host w = random(outputs, width, dtype(), 3, 1 / std::sqrt(outputs));
    const View from = upload(dy, dtype(), 8), weight = upload(w, dtype(), 8);
    const View product = upload(gate_up, dtype(), 16), again = empty(rows, width, dtype(), 8);
    const View dw = zeros(outputs, width, exact());
    run(stream(),
        op::LinearBackward{
            .dw = dw, .dy = from, .x = again, .w = weight, .product = product, .again = again});
    const View old = upload(gate_up), slopes = empty(rows, 2 * width), hidden = empty(rows, width);
    const View dx = empty(rows, width), expected_dw = zeros(outputs, width, exact());
    run(stream(), op::LinearBackward{.dx = dx, .dy = from, .w = weight});
    run(stream(), op::SwiGluBackward{.dgate = slopes.columns(0, width),
                                     .dup = slopes.columns(width, width),
                                     .y = hidden,
                                     .dy = dx,
                                     .gate = old.columns(0, width),
                                     .up = old.columns(width, width)});
    run(stream(), op::LinearBackward{.dw = expected_dw, .dy = from, .x = hidden});
    expect_close(host(product), host(slopes), dtype(), Law{.terms = outputs, .rounded = dtype()});
    expect_same(host(again), host(hidden));
    expect_same(host(dw), host(expected_dw));
  }
}

TEST(LinearBackward, MatchesFiniteDifferences) {
  Stream plain(1, Tier::plain);
  Matrix x(plain, DType::f64, 3, 7), w(plain, DType::f64, 5, 7), y(plain, DType::f64, 3, 5);
  Matrix dx(plain, DType::f64, 3, 7), dw(plain, DType::f64, 5, 7), dy(plain, DType::f64, 3, 5);
  const auto set = [](View v, int seed) {
    const Host values = random(v.rows, v.cols, DType::f64, seed);
    for (Index r = 0; r < v.rows; ++r)
      for (Index c = 0; c < v.cols; ++c) v.row<double>(r)[c] = values(r, c);
  };
  set(x, 1);
  set(w, 2);
  set(dy, 3);
  fill(dw, 0);
  run(plain, op::LinearBackward{.dx = dx, .dw = dw, .dy = dy, .x = x, .w = w});
  const auto loss = [&] {
    run(plain, op::Linear{.y = y, .x = x, .w = w});
    return dot(host(dy), host(y));
  };
  expect_gradient(x, host(dx), loss);
  expect_gradient(w, host(dw), loss);
}

TEST(LinearCheck, RefusesWhatItCannotMultiply) {
  Stream stream(1);
  const Matrix x(stream, DType::bf16, 2, 8), w(stream, DType::bf16, 4, 8);
  const Matrix y(stream, DType::bf16, 2, 4), wide(stream, DType::bf16, 4, 9);
  const Matrix ids(stream, DType::i32, 2, 8);
  EXPECT_THROW(run(stream, op::Linear{.y = y, .x = x, .w = wide}), Error);
  EXPECT_THROW(run(stream, op::Linear{.y = y, .x = x, .w = w, .packed = true}), Error);
  EXPECT_THROW(run(stream, op::Linear{.y = y, .x = ids, .w = w}), Error);
  const Matrix bias(stream, DType::f32, 1, 4), narrow(stream, DType::bf16, 1, 4);
  const Matrix sums(stream, DType::f32, 2, 4);
  EXPECT_THROW(run(stream, op::Linear{.y = y, .x = x, .w = w, .bias = narrow}), Error);
  EXPECT_THROW(run(stream, op::Linear{.y = y, .x = x, .w = w, .bias = sums}), Error);
  EXPECT_THROW(run(stream, op::Linear{.y = sums, .x = x, .w = w, .bias = bias, .add = true}),
               Error);
  const Matrix hidden(stream, DType::bf16, 2, 2), gated_sums(stream, DType::f32, 2, 2);
  const Matrix residual(stream, DType::f32, 2, 8), norm(stream, DType::f32, 1, 8);
  const auto gate = [&](View to, ConstView from, ConstView by, bool add) {
    run(stream, op::Linear{.y = to, .x = from, .w = w, .add = add, .gated = true, .norm = by});
  };
  EXPECT_THROW(gate(gated_sums, x, {}, false), Error);
  EXPECT_THROW(gate(gated_sums, x, {}, true), Error);
  EXPECT_THROW(gate(y, x, {}, false), Error);
  EXPECT_THROW(gate(hidden, x, norm, false), Error);
  EXPECT_THROW(gate(hidden, residual, {}, false), Error);
  EXPECT_THROW(gate(hidden, residual, residual, false), Error);
  const std::vector<Span> spans{{0, 2, 0}};
  const auto rotate = [&](View to, View columns, bool add) {
    run(stream,
        op::Linear{.y = to,
                   .x = x,
                   .w = w,
                   .add = add,
                   .rope = {.x = columns, .heads = 1, .base = 10, .batch = batch_of(spans)}});
  };
  EXPECT_THROW(rotate(y, y.view().columns(2, 2), false), Error);
  EXPECT_THROW(rotate(y, hidden, false), Error);
  EXPECT_THROW(rotate(sums, sums, true), Error);
  EXPECT_THROW(run(stream, op::PackLinear{.panels = w, .w = w}), Error);
  EXPECT_THROW(run(stream, op::LinearBackward{.dw = w, .dy = y, .x = x}), Error);
  EXPECT_THROW(run(stream, op::LinearBackward{.dbias = narrow, .dy = y}), Error);
  const Matrix half(stream, DType::bf16, 2, 2), wide_half(stream, DType::f32, 2, 2);
  EXPECT_THROW(run(stream, op::Linear{.y = half, .x = x, .w = w}), Error);
  EXPECT_THROW(run(stream, op::Linear{.y = y, .x = x, .w = w, .gated = true}), Error);
  EXPECT_THROW(run(stream, op::Linear{.y = wide_half, .x = x, .w = w, .gated = true}), Error);
  EXPECT_THROW(run(stream, op::Linear{.y = y, .x = x, .w = w, .product = y}), Error);
  EXPECT_THROW(run(stream, op::Linear{.y = half, .x = x, .w = w, .gated = true, .product = half}),
               Error);
  EXPECT_THROW(run(stream, op::LinearBackward{.dy = y, .w = w, .product = x}), Error);
}

}  // namespace
}  // namespace samba::test
