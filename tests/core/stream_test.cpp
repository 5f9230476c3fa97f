#include "core/stream.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include "core/error.h"

namespace samba::test {
namespace {

std::uintptr_t address(const std::byte* data) {
  return reinterpret_cast<std::uintptr_t>(data);
}

TEST(Pool, HandsOutWhatWasGivenBack) {
  Pool pool;
  std::byte* first = pool.take(1000);
  std::byte* second = pool.take(1000);
  EXPECT_NE(first, second);
  const std::size_t held = pool.held();
  EXPECT_GE(held, 2000u);
  pool.give(first, 1000);
  EXPECT_EQ(pool.held(), held);
  EXPECT_EQ(pool.take(1000), first);
  EXPECT_EQ(pool.held(), held);
  // Blocks go by size: one of another size is new.
  pool.give(second, 1000);
  std::byte* other = pool.take(999);
  EXPECT_NE(other, second);
  pool.give(other, 999);
  pool.give(first, 1000);
}

TEST(Pool, AlignsToCacheLinesAndLargeBlocksToHugePages) {
  Pool pool;
  for (const std::size_t bytes : {0, 1, 63, 64, 65, 100000}) {
    std::byte* block = pool.take(bytes);
    EXPECT_EQ(address(block) % 64, 0u);
    pool.give(block, bytes);
  }
  constexpr std::size_t kHuge = std::size_t{2} << 20;
  std::byte* block = pool.take(kHuge + 1);
  EXPECT_EQ(address(block) % kHuge, 0u);
  block[kHuge] = std::byte{1};
  pool.give(block, kHuge + 1);
}

TEST(Pool, StatesTheSizeThatTheMachineDoesNotHave) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the address sanitizer ends the process instead of returning null";
#endif
  Pool pool;
  constexpr std::size_t kBytes = std::size_t{1} << 60;
  try {
    pool.take(kBytes);
    FAIL() << "2^60 bytes were found";
  } catch (const Error& error) {
    EXPECT_NE(
        std::string(error.what()).find("memory: 1048576 TiB were asked for beside the 0 B in use"),
        std::string::npos)
        << error.what();
  }
  EXPECT_EQ(pool.held(), 0u);
}

TEST(Stream, ReusesAMatrixsMemoryForTheNextOfItsSize) {
  Stream stream(1);
  const std::byte* data = nullptr;
  {
    const Matrix m(stream, DType::f32, 10, 10);
    data = m.view().data;
  }
  const std::size_t held = stream.pool()->held();
  const Matrix m(stream, DType::f32, 20, 5);
  EXPECT_EQ(m.view().data, data);
  EXPECT_EQ(stream.pool()->held(), held);
}

TEST(Stream, TakesTheCoresOfTheProcessUnlessTold) {
  EXPECT_GE(Stream().threads(), 1);
  EXPECT_EQ(Stream(3).threads(), 3);
  EXPECT_EQ(Stream(1).tier(), best_tier());
  EXPECT_EQ(Stream(1, Tier::plain).tier(), Tier::plain);
}

TEST(Stream, RefusesATierThatTheMachineLacks) {
  if (machine_has(Tier::avx512bf16)) GTEST_SKIP() << "this machine has every tier";
  EXPECT_THROW(Stream(1, Tier::avx512bf16), Error);
}

TEST(Stream, ARehearsalTakesNothingAndReadsZeros) {
  Stream stream(2);
  Stream rehearsal = stream.rehearsal();
  EXPECT_EQ(rehearsal.device(), stream.device());
  const Index rows = Index{1} << 30, cols = Index{1} << 10;  // 4 TiB
  const Matrix large(rehearsal, DType::f32, rows, cols);
  EXPECT_EQ(rehearsal.pool()->held(), static_cast<std::size_t>(large.bytes()));
  EXPECT_EQ(stream.pool()->held(), 0);
  clear(rehearsal, large);
  copy(rehearsal, large, large);
  const Matrix read = download(rehearsal, large.view().block(7, 2));
  for (Index c = 0; c < cols; ++c) EXPECT_EQ(read.row<float>(1)[c], 0);
}

TEST(Stream, KnowsWhatMemoryTheMachineHasLeft) {
  const std::size_t free = Stream(1).free_memory();
  EXPECT_GT(free, std::size_t{64} << 20);
  EXPECT_LT(free, std::size_t{1} << 50);
}

TEST(Tier, NamesGoBothWays) {
  for (const Tier tier : kTiers) EXPECT_EQ(tier_of(name_of(tier)), tier);
  try {
    tier_of("sse9");
    FAIL() << "sse9 was found";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "tier: found \"sse9\"; expected plain, avx2, avx512 or avx512bf16");
  }
}

}  // namespace
}  // namespace samba::test
