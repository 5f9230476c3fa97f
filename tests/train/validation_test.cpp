#include "train/validation.h"

#include <cmath>

#include "train/tiny_run.h"

namespace samba::test {
namespace {

class Validation : public testing::TestWithParam<Index> {
 protected:
  static constexpr Index kLongest = 4200;  // more than two passes of 2048

  TemporaryFolder folder_;

  /// The folder of `windows` windows of random ids.
  std::string data(Index windows) {
    return write_packed(folder_ / "data", random_ids(windows * (kLongest + 1), 64, 3));
  }
  static SmallModel model(DType dtype, Index window) {
    ModelConfig config = TinyRun::model_config();
    if (window > 0)
      config.layers[2]["window"] = window;
    else
      config.layers[2].erase("window");
    return SmallModel(config, Target{dtype == DType::f64 ? Tier::plain : best_tier(), dtype},
                      false);
  }
};

TEST_P(Validation, OnePassGivesWhatSeparateOnesGive) {
  for (const DType dtype : {DType::f64, DType::f32}) {
    SmallModel small = model(dtype, GetParam());
    const std::string folder = data(1);
    const std::vector<Index> lengths{1, 5, 2048, 2049, kLongest};
    const auto all = validate(small.model(), TokenWindows(folder, kLongest + 1), lengths, 10);
    ASSERT_EQ(all.size(), lengths.size());
    std::vector<std::int32_t> ids(kLongest + 1);
    TokenWindows(folder, kLongest + 1).read(0, ids);
    for (std::size_t i = 0; i < lengths.size(); ++i) {
      const Index n = lengths[i];
      EXPECT_EQ(all[i].length, n);
      const auto own = validate(small.model(), TokenWindows(folder, n + 1), {n}, 1);
      const double whole = small.loss({ids.begin(), ids.begin() + n},
                                      {ids.begin() + 1, ids.begin() + n + 1}, {{0, n, 0}}) /
                           static_cast<double>(n);
      if (dtype == DType::f64) {
        EXPECT_EQ(own[0].loss, all[i].loss);
        EXPECT_DOUBLE_EQ(whole, all[i].loss);
      } else {
        // A mean of losses near ln 64, each a sum over 64 values behind six layers.
        EXPECT_NEAR(own[0].loss, all[i].loss, 4 * 0x1p-24 * 64);
        EXPECT_NEAR(whole, all[i].loss, 4 * 0x1p-24 * 64);
      }
    }
  }
}

TEST(UnigramEntropy, IsThatOfTheIdsThatArePredicted) {
  const TemporaryFolder folder;
  // Two windows of five: 1 2 1 3 | 0 and 2 1 1 1 | 0, of which the first id of each is not
  // predicted.
  const std::string data = write_packed(folder / "data", {1, 2, 1, 3, 0, 2, 1, 1, 1, 0});
  const TokenWindows windows(data, 5);
  const auto all = unigram_entropy(windows, {1, 3}, 100);
  ASSERT_EQ(all.size(), 2u);
  EXPECT_NEAR(all[0].loss, std::log(2.), 1e-15);  // 2 and 1
  // 2 1 3 and 1 1 1: a sixth, four sixths, a sixth
  EXPECT_NEAR(all[1].loss, std::log(6.) / 3 - 2 * std::log(2. / 3) / 3, 1e-15);
  EXPECT_NEAR(unigram_entropy(windows, {3}, 1)[0].loss, std::log(3.), 1e-15);
  EXPECT_THROW(unigram_entropy(windows, {5}, 1), Error);
}

TEST_P(Validation, EveryWindowCountsTheSame) {
  SmallModel small = model(DType::f64, GetParam());
  const std::string folder = write_packed(folder_ / "short", random_ids(5 * 21, 64, 4));
  const TokenWindows windows(folder, 21);
  const auto loss_of = [&](Index most) { return validate(small.model(), windows, {7, 20}, most); };
  std::vector<Index> calls;
  const auto all =
      validate(small.model(), windows, {7, 20}, 100, [&](Index n) { calls.push_back(n); });
  EXPECT_EQ(calls, (std::vector<Index>{1, 2, 3, 4, 5}));
  double seven = 0, twenty = 0;
  for (Index w = 0; w < 5; ++w) {
    std::vector<std::int32_t> ids(21);
    windows.read(w, ids);
    seven += small.loss({ids.begin(), ids.begin() + 7}, {ids.begin() + 1, ids.begin() + 8},
                        {{0, 7, 0}}) /
             7;
    twenty +=
        small.loss({ids.begin(), ids.begin() + 20}, {ids.begin() + 1, ids.end()}, {{0, 20, 0}}) /
        20;
    const auto some = loss_of(w + 1);
    EXPECT_NEAR(some[0].loss, seven / static_cast<double>(w + 1), 1e-12);
    EXPECT_NEAR(some[1].loss, twenty / static_cast<double>(w + 1), 1e-12);
  }
  EXPECT_EQ(all[0].loss, loss_of(5)[0].loss);
}

TEST_P(Validation, RefusesLengthsThatItCannotRead) {
  SmallModel small = model(DType::f32, GetParam());
  const TokenWindows windows(write_packed(folder_ / "short", random_ids(42, 64, 4)), 21);
  for (const std::vector<Index>& wrong : {std::vector<Index>{}, {0, 5}, {7, 5}, {21}, {-1}})
    EXPECT_NE(error_of([&] { validate(small.model(), windows, wrong, 1); }), "");
  EXPECT_NE(error_of([&] { validate(small.model(), windows, {5}, 0); }), "");
}

INSTANTIATE_TEST_SUITE_P(Windows, Validation, testing::Values(5, 0), [](const auto& i) {
  return std::string(i.param == 0 ? "full" : "windowed");
});

}  // namespace
}  // namespace samba::test
