#include "support/kernel_test.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <ostream>

namespace samba::test {
namespace {

constexpr std::size_t kGuard = 256;
constexpr std::byte kGuardByte{0xa5};

}  // namespace

std::vector<Target> targets() {
  std::vector<Target> all{{Tier::plain, DType::f64}};
  for (const Tier tier : kTiers)
    if (machine_has(tier))
      for (const DType dtype : {DType::f32, DType::bf16}) all.push_back({tier, dtype});
  return all;
}

void PrintTo(const Target& target, std::ostream* out) {
  *out << name_of(target.tier) << ' ' << name_of(target.dtype);
}

std::string name_of_target(const testing::TestParamInfo<Target>& info) {
  return std::string(name_of(info.param.tier)) + "_" + name_of(info.param.dtype);
}

View KernelTest::guarded(Index rows, Index cols, DType dtype, Index gap) {
  auto block = std::make_unique<Guarded>();
  const Index stride = cols + gap;
  const auto bytes = static_cast<std::size_t>(rows * stride * size_of(dtype));
  block->memory.assign(bytes + 2 * kGuard, kGuardByte);
  block->view = {block->memory.data() + kGuard, rows, cols, stride, dtype};
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

void KernelTest::TearDown() {
  for (const auto& block : guarded_) {
    const View& v = block->view;
    const Index row_bytes = v.stride * size_of(v.dtype);
    auto untouched = [](const std::byte* from, std::size_t count) {
      return std::all_of(from, from + count, [](std::byte b) { return b == kGuardByte; });
    };
    EXPECT_TRUE(untouched(block->memory.data(), kGuard)) << "written before a matrix";
    for (Index r = 0; r < v.rows; ++r)
      EXPECT_TRUE(untouched(v.data + r * row_bytes + v.cols * size_of(v.dtype),
                            static_cast<std::size_t>((v.stride - v.cols) * size_of(v.dtype))))
          << "written behind row " << r;
    EXPECT_TRUE(untouched(v.data + v.rows * row_bytes, kGuard)) << "written behind a matrix";
  }
}

}  // namespace samba::test
