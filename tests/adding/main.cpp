#include <gtest/gtest.h>

// The contract runs over every type of the registry; here over the one that docs/adding.md adds,
// for the others have had their turn in test_layers.
int main(int argc, char** argv) {
  GTEST_FLAG_SET(filter, "*gated_conv*:Adding.*");
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
