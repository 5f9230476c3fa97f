#include "core/matrix.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "core/error.h"
#include "core/stream.h"

namespace samba::test {
namespace {

template <class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(View, BlocksAndColumnsAreWindowsOnTheSameElements) {
  Stream stream(1);
  const Matrix m(stream, DType::f32, 4, 6);
  for (Index r = 0; r < 4; ++r)
    for (Index c = 0; c < 6; ++c) m.row<float>(r)[c] = static_cast<float>(10 * r + c);
  const View window = m.view().block(1, 2).columns(2, 3);
  EXPECT_EQ(window.rows, 2);
  EXPECT_EQ(window.cols, 3);
  EXPECT_EQ(window.stride, 6);
  EXPECT_EQ(window.row<float>(0)[0], 12);
  EXPECT_EQ(window.row<float>(1)[2], 24);
  window.row<float>(1)[0] = -1;
  EXPECT_EQ(m.row<float>(2)[2], -1);
  const ConstView read = window;
  EXPECT_EQ(read.block(1, 1).columns(0, 1).row<float>(0)[0], -1);
  EXPECT_FALSE(read.empty());
  EXPECT_TRUE(View{}.empty());
}

TEST(Matrix, IsAlignedAndKeepsItsStreamsMemoryAlive) {
  Matrix m;
  EXPECT_TRUE(m.empty());
  {
    Stream stream(1);
    m = Matrix(stream, DType::bf16, 3, 5);
  }
  EXPECT_EQ(m.bytes(), 30);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(m.view().data) % 64, 0u);
  fill(m, 2);
  EXPECT_EQ(static_cast<float>(m.row<Bf16>(2)[4]), 2);
}

TEST(Matrix, MovesItsMemoryWithoutCopying) {
  Stream stream(1);
  Matrix a(stream, DType::f64, 2, 2);
  const std::byte* data = a.view().data;
  Matrix b(std::move(a));
  EXPECT_EQ(b.view().data, data);
  EXPECT_TRUE(a.empty());  // NOLINT(bugprone-use-after-move): that is what is tested
  Matrix c;
  c = std::move(b);
  EXPECT_EQ(c.view().data, data);
}

TEST(Matrix, MayHaveNoElements) {
  Stream stream(1);
  const Matrix m(stream, DType::f32, 0, 7);
  EXPECT_FALSE(m.empty());
  EXPECT_EQ(m.bytes(), 0);
  copy(m, Matrix(stream, DType::f64, 0, 7));
  fill(m, 1);
}

TEST(Copy, ConvertsBetweenAllFloatTypes) {
  Stream stream(1);
  const double values[] = {1.0,   -0.0,       3.14159265358979,
                           1e-40, 1 + 0x1p-8, std::numeric_limits<double>::infinity()};
  for (const DType from : {DType::f64, DType::f32, DType::bf16})
    for (const DType to : {DType::f64, DType::f32, DType::bf16}) {
      const Matrix exact(stream, DType::f64, 2, 3), a(stream, from, 2, 3), wide(stream, to, 2, 8),
          back(stream, DType::f64, 2, 3);
      for (Index i = 0; i < 6; ++i) exact.row<double>(i / 3)[i % 3] = values[i];
      const View b = wide.view().columns(4, 3);
      copy(a, exact);
      copy(b, a);
      copy(back, b);
      for (Index i = 0; i < 6; ++i) {
        double expected = values[i];
        for (const DType step : {from, to}) {
          if (step == DType::f32) expected = static_cast<float>(expected);
          if (step == DType::bf16)
            expected = static_cast<float>(Bf16(static_cast<float>(expected)));
        }
        const double found = back.row<double>(i / 3)[i % 3];
        EXPECT_EQ(found, expected) << name_of(from) << " to " << name_of(to);
        EXPECT_EQ(std::signbit(found), std::signbit(expected));
      }
    }
}

TEST(Copy, KeepsIdsAndRefusesOtherShapes) {
  Stream stream(1);
  const Matrix a(stream, DType::i32, 2, 2), b(stream, DType::i32, 2, 2),
      c(stream, DType::i32, 2, 3);
  fill(a, std::numeric_limits<std::int32_t>::max());
  copy(b, a);
  EXPECT_EQ(b.row<std::int32_t>(1)[1], std::numeric_limits<std::int32_t>::max());
  EXPECT_EQ(message_of([&] { copy(b, c); }), "copy: expected i32[2 x 2], found i32[2 x 3]");
}

TEST(Fill, TouchesNothingBetweenTheRows) {
  Stream stream(1);
  const Matrix m(stream, DType::f32, 3, 4);
  fill(m, 1);
  fill(m.view().columns(1, 2), 5);
  for (Index r = 0; r < 3; ++r) {
    EXPECT_EQ(m.row<float>(r)[0], 1);
    EXPECT_EQ(m.row<float>(r)[1], 5);
    EXPECT_EQ(m.row<float>(r)[2], 5);
    EXPECT_EQ(m.row<float>(r)[3], 1);
  }
}

TEST(ExpectShape, NamesThePlaceWhatWasFoundAndWhatWasExpected) {
  Stream stream(1);
  const Matrix m(stream, DType::f32, 1, 1535), ids(stream, DType::i32, 4, 1);
  EXPECT_EQ(shape_of(m), "f32[1 x 1535]");
  EXPECT_EQ(message_of([&] { expect_shape("norm: w", m, 1, 1536, DType::f32); }),
            "norm: w: expected f32[1 x 1536], found f32[1 x 1535]");
  EXPECT_EQ(message_of([&] { expect_shape("norm: w", m, 1, 1535, DType::bf16); }),
            "norm: w: expected bf16[1 x 1535], found f32[1 x 1535]");
  EXPECT_EQ(message_of([&] { expect_shape("norm: w", View{}, 1, 2, DType::f32); }),
            "norm: w: expected f32[1 x 2], found nothing");
  EXPECT_EQ(message_of([&] { expect_same_shape("norm: y", ids, m); }),
            "norm: y: expected f32[1 x 1535], found i32[4 x 1]");
  EXPECT_EQ(message_of([&] { expect_float("norm: y", ids); }),
            "norm: y: expected f64, f32 or bf16, found i32[4 x 1]");
  expect_shape("norm: w", m, 1, 1535, DType::f32);
  expect_same_shape("norm: y", m, m);
  expect_float("norm: y", m);
}

}  // namespace
}  // namespace samba::test
