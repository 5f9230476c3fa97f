#include "kernels/linear.h"

#include <limits>

#include "core/error.h"
#include "kernels/run.h"
#include "support/gradient.h"
#include "support/kernel_test.h"
#include "support/reference.h"

namespace samba::test {
namespace {

using reference::transposed;

struct Sizes {
  Index rows, inputs, outputs;
};

// 1, odd sizes, no multiples of a tile; some cross the blocks of k, rows and columns; the last ones
// lie as a GPU's tensor cores and its library want them.
const std::vector<Sizes> kSizes{
    {1, 1, 1},      {1, 3, 17},      {3, 17, 65},  {2, 65, 127},   {5, 200, 3},    {17, 127, 65},
    {65, 3, 200},   {37, 65, 200},   {127, 17, 1}, {7, 1000, 33},  {530, 901, 67}, {1100, 33, 130},
    {1, 2056, 100}, {13, 264, 1000}, {30, 72, 40}, {100, 512, 72}, {300, 520, 264}};

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
  EXPECT_THROW(run(stream, op::PackLinear{.panels = w, .w = w}), Error);
  EXPECT_THROW(run(stream, op::LinearBackward{.dw = w, .dy = y, .x = x}), Error);
  EXPECT_THROW(run(stream, op::LinearBackward{.dbias = narrow, .dy = y}), Error);
}

}  // namespace
}  // namespace samba::test
