#include "kernels/gated_norm.h"

#include "core/error.h"
#include "kernels/run.h"
#include "support/gradient.h"
#include "support/kernel_test.h"
#include "support/reference.h"

namespace samba::test {
namespace {

constexpr double kEps = 1e-5;

class GatedNorm : public KernelTest {};
SAMBA_KERNEL_TEST(GatedNorm);

TEST_P(GatedNorm, MatchesTheDefinition) {
  for (const Index width : {1, 31, 128, 600})
    for (const Index heads : {1, 3}) {
      const Host x = random(5, heads * width, dtype(), 1, 3);
      const Host gate = random(5, heads * width, dtype(), 2), w = random(1, width, exact(), 3);
      const View y = empty(5, heads * width, dtype(), 3);
      run(stream(), op::GatedNorm{.y = y,
                                  .x = upload(x),
                                  .gate = upload(gate, dtype(), 2),
                                  .w = upload(w, exact()),
                                  .eps = kEps});
      expect_close(host(y), reference::gated_norm(x, gate, w, kEps), dtype(), width);
      // Without gaps some widths are read by vectors, with the same bits.
      const View dense = empty(5, heads * width);
      run(stream(), op::GatedNorm{.y = dense,
                                  .x = upload(x),
                                  .gate = upload(gate),
                                  .w = upload(w, exact()),
                                  .eps = kEps});
      expect_same(host(dense), host(y));
    }
}

TEST_P(GatedNorm, BackwardMatchesFloat64) {
  Stream plain(1, Tier::plain);
  // Heads that fit a warp's registers in several ways or not at all, and more of them than warps.
  for (const auto& [rows, width] :
       {std::pair<Index, Index>{130, 20}, {130, 33}, {1500, 24}, {70, 128}, {40, 300}, {20, 600}}) {
    const Index heads = 3;
    const Host x = random(rows, heads * width, dtype(), 1, 3);
    const Host gate = random(rows, heads * width, dtype(), 2), w = random(1, width, exact(), 3);
    const Host dy = random(rows, heads * width, dtype(), 4);
    const auto gradients = [&](Stream& where, DType type) {
      const View dx = empty(rows, heads * width, type), dgate = empty(rows, heads * width, type);
      const View dw = zeros(1, width, exact_of(type));
      run(where, op::GatedNormBackward{.dx = dx,
                                       .dgate = dgate,
                                       .dw = dw,
                                       .dy = upload(dy, type),
                                       .x = upload(x, type),
                                       .gate = upload(gate, type),
                                       .w = upload(w, exact_of(type)),
                                       .eps = kEps});
      return std::vector<Host>{host(dx), host(dgate), host(dw)};
    };
    const auto actual = gradients(stream(), dtype()), expected = gradients(plain, DType::f64);
    expect_close(actual[0], expected[0], dtype(), width);
    expect_close(actual[1], expected[1], dtype(), width);
    // A sum over rows and heads, of terms that hold a norm's sum over the width.
    expect_close(actual[2], expected[2], exact(), rows * heads + width);
  }
}

TEST(GatedNormBackward, MatchesFiniteDifferences) {
  Stream plain(2, Tier::plain);
  const Index rows = 4, cols = 10, width = 5;
  const auto matrix = [&](const Host& from) {
    Matrix m(plain, DType::f64, from.rows, from.cols);
    for (Index r = 0; r < from.rows; ++r)
      for (Index c = 0; c < from.cols; ++c) m.view().row<double>(r)[c] = from(r, c);
    return m;
  };
  Matrix x = matrix(random(rows, cols, DType::f64, 1));
  Matrix gate = matrix(random(rows, cols, DType::f64, 2));
  Matrix w = matrix(random(1, width, DType::f64, 3));
  const Host dy = random(rows, cols, DType::f64, 4);
  const Matrix dy_matrix = matrix(dy);
  Matrix y(plain, DType::f64, rows, cols), dx(plain, DType::f64, rows, cols);
  Matrix dgate(plain, DType::f64, rows, cols), dw(plain, DType::f64, 1, width);
  fill(dw, 0);
  run(plain, op::GatedNormBackward{.dx = dx,
                                   .dgate = dgate,
                                   .dw = dw,
                                   .dy = dy_matrix,
                                   .x = x,
                                   .gate = gate,
                                   .w = w,
                                   .eps = kEps});
  const auto loss = [&] {
    run(plain, op::GatedNorm{.y = y, .x = x, .gate = gate, .w = w, .eps = kEps});
    return dot(dy, host(y));
  };
  expect_gradient(x, host(dx), loss);
  expect_gradient(gate, host(dgate), loss);
  expect_gradient(w, host(dw), loss);
}

TEST_P(GatedNorm, RefusesAWeightThatDoesNotFit) {
  const op::GatedNorm op{.y = empty(2, 10),
                         .x = zeros(2, 10, dtype()),
                         .gate = zeros(2, 10, dtype()),
                         .w = zeros(1, 4, exact()),
                         .eps = kEps};
  EXPECT_THROW(run(stream(), op), Error);
}

}  // namespace
}  // namespace samba::test
