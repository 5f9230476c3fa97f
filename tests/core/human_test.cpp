#include "core/human.h"

#include <gtest/gtest.h>

#include <cmath>

namespace samba {
namespace {

TEST(Human, CountsInThreeDigits) {
  EXPECT_EQ(human_count(0), "0");
  EXPECT_EQ(human_count(7), "7");
  EXPECT_EQ(human_count(999), "999");
  EXPECT_EQ(human_count(1000), "1.00k");
  EXPECT_EQ(human_count(12345), "12.3k");
  EXPECT_EQ(human_count(123456), "123k");
  EXPECT_EQ(human_count(1234567), "1.23M");
  EXPECT_EQ(human_count(1.3e9), "1.30B");
  EXPECT_EQ(human_count(3.2e12), "3.20T");
  EXPECT_EQ(human_count(5e15), "5000T");
}

TEST(Human, RoundsIntoTheNextUnit) {
  EXPECT_EQ(human_count(999499), "999k");
  EXPECT_EQ(human_count(999600), "1.00M");
  EXPECT_EQ(human_count(999.6), "1.00k");
  EXPECT_EQ(human_count(9.996), "10.0");
  EXPECT_EQ(human_count(99.96), "100");
}

TEST(Human, CountsFractionsSignsAndTheUncountable) {
  EXPECT_EQ(human_count(1.7), "1.70");
  EXPECT_EQ(human_count(0.00123), "0.00123");
  EXPECT_EQ(human_count(-1234567), "-1.23M");
  EXPECT_EQ(human_count(NAN), "?");
  EXPECT_EQ(human_count(INFINITY), "?");
}

TEST(Human, SaysDurations) {
  EXPECT_EQ(human_seconds(0), "0s");
  EXPECT_EQ(human_seconds(0.0034), "3.4ms");
  EXPECT_EQ(human_seconds(0.25), "250ms");
  EXPECT_EQ(human_seconds(5.21), "5.2s");
  EXPECT_EQ(human_seconds(8), "8s");
  EXPECT_EQ(human_seconds(9.96), "10s");
  EXPECT_EQ(human_seconds(42), "42s");
  EXPECT_EQ(human_seconds(59.7), "1m 00s");
  EXPECT_EQ(human_seconds(75), "1m 15s");
  EXPECT_EQ(human_seconds(3599.8), "1h 00m");
  EXPECT_EQ(human_seconds(3720), "1h 02m");
  EXPECT_EQ(human_seconds(86399), "1d 00h");
  EXPECT_EQ(human_seconds(90000), "1d 01h");
  EXPECT_EQ(human_seconds(INFINITY), "?");
}

TEST(Human, SaysBytes) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(512), "512 B");
  EXPECT_EQ(human_bytes(1023), "1023 B");
  EXPECT_EQ(human_bytes(1024), "1.00 KiB");
  EXPECT_EQ(human_bytes(1536), "1.50 KiB");
  EXPECT_EQ(human_bytes(3.5 * 1024 * 1024), "3.50 MiB");
  EXPECT_EQ(human_bytes(1023.7 * 1024), "1.00 MiB");
}

}  // namespace
}  // namespace samba
