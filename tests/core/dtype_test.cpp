#include "core/dtype.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace samba::test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

float rounded(float value) {
  return static_cast<float>(Bf16(value));
}

TEST(Bf16, KeepsWhatItCanHold) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    Bf16 x;
    x.bits = static_cast<std::uint16_t>(bits);
    const auto value = static_cast<float>(x);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(rounded(value))) << bits;
    } else {
      EXPECT_EQ(Bf16(value).bits, bits);
    }
  }
}

TEST(Bf16, RoundsToTheNearestAndTiesToEven) {
  // Neighbours at 1 lie 2^-7 apart.
  EXPECT_EQ(rounded(1 + 0x1p-8f), 1);
  EXPECT_EQ(rounded(1 + 3 * 0x1p-8f), 1 + 2 * 0x1p-7f);
  EXPECT_EQ(rounded(std::nextafter(1 + 0x1p-8f, 2.0f)), 1 + 0x1p-7f);
  EXPECT_EQ(rounded(std::nextafter(1 + 3 * 0x1p-8f, 1.0f)), 1 + 0x1p-7f);
  EXPECT_EQ(rounded(-1 - 0x1p-8f), -1);
  EXPECT_EQ(rounded(-1 - 3 * 0x1p-8f), -1 - 2 * 0x1p-7f);
  // A carry runs from the fraction into the exponent.
  EXPECT_EQ(rounded(2 - 0x1p-20f), 2);
}

TEST(Bf16, KeepsZerosInfinitiesAndNans) {
  EXPECT_EQ(Bf16(0.0f).bits, 0);
  EXPECT_EQ(Bf16(-0.0f).bits, 0x8000);
  EXPECT_EQ(rounded(kInfinity), kInfinity);
  EXPECT_EQ(rounded(-kInfinity), -kInfinity);
  EXPECT_EQ(rounded(std::numeric_limits<float>::max()), kInfinity);
  EXPECT_TRUE(std::isnan(rounded(std::numeric_limits<float>::quiet_NaN())));
  // The only bits of this NaN are among those that are cut off, those of the next carry over.
  EXPECT_TRUE(std::isnan(rounded(std::bit_cast<float>(0x7f800001u))));
  EXPECT_TRUE(std::isnan(rounded(std::bit_cast<float>(0xffffffffu))));
}

TEST(Bf16, RoundsSubnormalNumbersToo) {
  const float smallest = std::bit_cast<float>(0x00010000u);
  EXPECT_EQ(rounded(smallest), smallest);
  EXPECT_EQ(rounded(std::bit_cast<float>(0x00008000u)), 0);
  EXPECT_EQ(rounded(std::bit_cast<float>(0x00008001u)), smallest);
}

TEST(DType, NamesSizesAndSumTypesAgreeWithTheTypes) {
  EXPECT_EQ(dtype_of<double>(), DType::f64);
  EXPECT_EQ(dtype_of<float>(), DType::f32);
  EXPECT_EQ(dtype_of<Bf16>(), DType::bf16);
  EXPECT_EQ(dtype_of<std::int32_t>(), DType::i32);
  EXPECT_EQ(size_of(DType::f64), Index{sizeof(double)});
  EXPECT_EQ(size_of(DType::f32), Index{sizeof(float)});
  EXPECT_EQ(size_of(DType::bf16), Index{sizeof(Bf16)});
  EXPECT_EQ(size_of(DType::i32), Index{sizeof(std::int32_t)});
  EXPECT_STREQ(name_of(DType::bf16), "bf16");
  EXPECT_EQ(exact_of(DType::bf16), dtype_of<Exact<Bf16>>());
  EXPECT_EQ(exact_of(DType::f64), dtype_of<Exact<double>>());
}

TEST(DType, UnitRoundoffIsTheLargestErrorOfOneRounding) {
  EXPECT_EQ(unit_roundoff(DType::f64), std::numeric_limits<double>::epsilon() / 2);
  EXPECT_EQ(unit_roundoff(DType::f32), std::numeric_limits<float>::epsilon() / 2);
  double worst = 0;
  for (float x = 1; x < 2; x += 0x1p-14f)
    worst = std::max<double>(worst, std::abs(rounded(x) - x) / x);
  EXPECT_LE(worst, unit_roundoff(DType::bf16));
  EXPECT_GT(worst, unit_roundoff(DType::bf16) * 0.99);
}

}  // namespace
}  // namespace samba::test
