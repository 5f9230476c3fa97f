#include "support/kernel_test.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <ostream>

namespace samba::test {
namespace {

constexpr Index kGuard = 256;
constexpr std::byte kGuardByte{0xa5};

}  // namespace

View KernelTest::guarded(Index rows, Index cols, DType dtype, Index gap) {
  auto block = std::make_unique<Guarded>();
  const Index stride = cols + gap;
  const Index bytes = rows * stride * size_of(dtype) + 2 * kGuard;
  block->memory = Matrix(stream_, DType::i32, 1, (bytes + 3) / 4);
  std::byte* data = block->memory.view().data;
  std::fill_n(data, bytes, kGuardByte);
  block->view = {data + kGuard, rows, cols, stride, dtype};
  guarded_.push_back(std::move(block));
  return guarded_.back()->view;
}

View KernelTest::upload(const Host& x, DType dtype, Index gap) {
  const View v = guarded(x.rows, x.cols, dtype, gap);
  if (x.rows * x.cols > 0) {
    auto* values = const_cast<double*>(x.values.data());
    copy(v, View{reinterpret_cast<std::byte*>(values), x.rows, x.cols, x.cols, DType::f64});
  }
  return v;
}

View KernelTest::ids(const std::vector<int>& values) {
  const View v = guarded(static_cast<Index>(values.size()), 1, DType::i32, 0);
  for (std::size_t i = 0; i < values.size(); ++i)
    *v.row<std::int32_t>(static_cast<Index>(i)) = values[i];
  return v;
}

View KernelTest::empty(Index rows, Index cols, DType dtype, Index gap) {
  const View v = guarded(rows, cols, dtype, gap);
  fill(v, std::numeric_limits<double>::quiet_NaN());
  return v;
}

View KernelTest::zeros(Index rows, Index cols, DType dtype) {
  const View v = guarded(rows, cols, dtype, 0);
  fill(v, 0);
  return v;
}

void KernelTest::SetUp() {
  SAMBA_SKIP_WITHOUT_GPU(GetParam());
  stream_ = GetParam().stream();
}

void KernelTest::TearDown() {
  for (const auto& block : guarded_) {
    const View& v = block->view;
    const Index row_bytes = v.stride * size_of(v.dtype);
    auto untouched = [](const std::byte* from, Index count) {
      return std::all_of(from, from + count, [](std::byte b) { return b == kGuardByte; });
    };
    EXPECT_TRUE(untouched(v.data - kGuard, kGuard)) << "written before a matrix";
    for (Index r = 0; r < v.rows; ++r)
      EXPECT_TRUE(untouched(v.data + r * row_bytes + v.cols * size_of(v.dtype),
                            (v.stride - v.cols) * size_of(v.dtype)))
          << "written behind row " << r;
    EXPECT_TRUE(untouched(v.data + v.rows * row_bytes, kGuard)) << "written behind a matrix";
  }
}

}  // namespace samba::test
