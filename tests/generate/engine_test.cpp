#include "generate/engine.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "support/kernel_test.h"
#include "support/shared.h"
#include "support/small_model.h"

namespace samba::test {
namespace {

using Ids = std::vector<std::int32_t>;

class Generation : public testing::TestWithParam<Target> {
 protected:
  static constexpr Index kContext = 64;

  void SetUp() override { SAMBA_SKIP_WITHOUT_GPU(GetParam()); }
  SmallModel make(Index window = 5) const {
    SmallModel small(small_samba(true, window), GetParam(), false);
    small.model().pack();
    return small;
  }

  /// A request whose new ids go to `out`.
  static Request request(const Ids& prompt, Index max_tokens, Ids& out, Sampling sampling = {}) {
    return {prompt, max_tokens, sampling, {}, [&out](std::int32_t id) {
              out.push_back(id);
              return true;
            }};
  }

  /// What one request alone generates.
  static Ids alone(Model& model, const Ids& prompt, Index max_tokens, Sampling sampling = {},
                   Engine::Options options = {1, 512, kContext, 0}) {
    Engine engine(model, options);
    Ids out;
    engine.submit(request(prompt, max_tokens, out, sampling));
    engine.run();
    return out;
  }
};

TEST_P(Generation, GreedyIdsAreThoseOfTheLogits) {
  for (const Index window : {5, 0}) {
    SmallModel small = make(window);
    Ids ids = random_ids(9, 37, 1);
    const Ids found = alone(small.model(), ids, 12);
    ASSERT_EQ(found.size(), 12u);
    States states = small.model().make_states(1, kContext);
    Index position = 0;
    Ids fed = ids;
    for (const std::int32_t id : found) {
      const Index n = static_cast<Index>(fed.size());
      const Host logits = small.logits(fed, {{0, n, position, 0}}, &states);
      position += n;
      Index best = 0;
      for (Index v = 1; v < logits.cols; ++v)
        if (logits(n - 1, v) > logits(n - 1, best)) best = v;
      EXPECT_EQ(id, best);
      fed = {id};
    }
  }
}

TEST_P(Generation, RequestsTogetherGetWhatEachGetsAlone) {
  for (const Index window : {5, 0}) {
    SmallModel small = make(window);
    struct Wanted {
      Ids prompt;
      Index count;
      Sampling sampling;
    };
    const std::vector<Wanted> all{{random_ids(3, 37, 1), 20, {}},
                                  {random_ids(17, 37, 2), 5, {1, 0, 1, 4}},
                                  {random_ids(1, 37, 3), 13, {0.8, 5, 0.9, 9}},
                                  {random_ids(11, 37, 4), 1, {}},
                                  {random_ids(8, 37, 5), 16, {}}};
    std::vector<Ids> found(all.size());
    // Fewer slots than requests, and room for every prompt as a whole: its chunks are then those
    // that it has alone.
    Engine engine(small.model(), {3, 512, kContext, 0});
    for (std::size_t i = 0; i < all.size(); ++i)
      engine.submit(request(all[i].prompt, all[i].count, found[i], all[i].sampling));
    engine.run();
    for (std::size_t i = 0; i < all.size(); ++i) {
      SCOPED_TRACE(i);
      EXPECT_EQ(static_cast<Index>(found[i].size()), all[i].count);
      EXPECT_EQ(found[i], alone(small.model(), all[i].prompt, all[i].count, all[i].sampling));
    }
  }
}

TEST_P(Generation, PromptsInPiecesGiveTheSameGreedyIds) {
  // In bf16 pieces may round otherwise, and near ties then fall otherwise.
  if (GetParam().dtype == DType::bf16) return;
  SmallModel small = make();
  const Ids one = random_ids(23, 37, 6), two = random_ids(14, 37, 7);
  const Ids first = alone(small.model(), one, 10), second = alone(small.model(), two, 10);
  for (const Index budget : {2, 3, 5, 20, 36, 37}) {
    SCOPED_TRACE(budget);
    Engine engine(small.model(), {2, budget, 0, 0});
    Ids a, b;
    engine.submit(request(one, 10, a));
    engine.submit(request(two, 10, b));
    engine.run();
    EXPECT_EQ(a, first);
    EXPECT_EQ(b, second);
  }
}

TEST_P(Generation, ASlotIsAsNewForItsNextRequest) {
  SmallModel small = make(0);
  const Ids prompt = random_ids(7, 37, 1);
  const Ids expected = alone(small.model(), prompt, 9);
  Engine engine(small.model(), {1, 512, kContext, 0});
  Ids before, after;
  engine.submit(request(random_ids(20, 37, 2), 30, before));
  engine.submit(request(prompt, 9, after));
  engine.run();
  EXPECT_EQ(before.size(), 30u);
  EXPECT_EQ(after, expected);
}

SAMBA_KERNEL_TEST(Generation);

class EngineRules : public testing::Test {
 protected:
  SmallModel small_{small_samba(), Target{Tier::plain, DType::f32}, false};
  SmallModel full_{small_samba(true, 0), Target{Tier::plain, DType::f32}, false};
  const Ids prompt_ = random_ids(9, 37, 1);
  Ids out_;

  Request request(Index max_tokens) {
    return {prompt_, max_tokens, {}, {}, [this](std::int32_t id) {
              out_.push_back(id);
              return true;
            }};
  }
  Ids run(Model& model, Request wanted, Engine::Options options = {}) {
    out_.clear();
    Engine engine(model, options);
    engine.submit(std::move(wanted));
    engine.run();
    return out_;
  }
};

TEST_F(EngineRules, SeedsRepeatAndDiffer) {
  Request one = request(30), two = request(30);
  one.sampling = {1, 0, 1, 1};
  two.sampling = {1, 0, 1, 2};
  const Ids text = run(small_.model(), one);
  EXPECT_EQ(run(small_.model(), one), text);
  EXPECT_NE(run(small_.model(), two), text);
}

TEST_F(EngineRules, EndIdsEndARequestAndAreNotDelivered) {
  const Ids all = run(small_.model(), request(20));
  ASSERT_EQ(all.size(), 20u);
  for (const std::size_t at : {0u, 3u, 19u}) {
    Request wanted = request(20);
    wanted.ends = {-1, all[at]};
    const auto first = std::find(all.begin(), all.end(), all[at]);
    EXPECT_EQ(run(small_.model(), wanted), Ids(all.begin(), first));
  }
}

TEST_F(EngineRules, NoTokensAreDeliveredWhenNoneAreWanted) {
  EXPECT_EQ(run(small_.model(), request(0)), Ids());
  EXPECT_EQ(run(full_.model(), request(0), {1, 512, 9, 0}), Ids());
}

TEST_F(EngineRules, ACallbackThatSaysNoEndsItsRequestAlone) {
  Ids stopped, other;
  Request one = request(20), two = request(20);
  one.on_token = [&](std::int32_t id) {
    stopped.push_back(id);
    return stopped.size() < 4;
  };
  two.on_token = [&](std::int32_t id) {
    other.push_back(id);
    return true;
  };
  Engine engine(small_.model(), {2, 512, 0, 0});
  engine.submit(one);
  engine.submit(two);
  engine.run();
  EXPECT_EQ(stopped.size(), 4u);
  EXPECT_EQ(other.size(), 20u);
  EXPECT_FALSE(engine.step());
}

TEST_F(EngineRules, GeneratesInsideItsVocabularyOnly) {
  Request wanted = request(200);
  wanted.sampling = {3, 0, 1, 5};
  std::int32_t largest = 0;
  for (const std::int32_t id : run(small_.model(), wanted)) largest = std::max(largest, id);
  EXPECT_GT(largest, 10);
  for (const std::int32_t id : run(small_.model(), wanted, {1, 512, 0, 10})) EXPECT_LT(id, 10);
  for (const std::int32_t id : run(small_.model(), request(50), {1, 512, 0, 1})) EXPECT_EQ(id, 0);
}

TEST_F(EngineRules, FullAttentionNeedsAContextThatHoldsTheRequest) {
  EXPECT_NE(error_of([&] { Engine(full_.model(), {}); }).find("prompt and output: expected 1 to"),
            std::string::npos);
  Engine engine(full_.model(), {1, 512, 15, 0});
  EXPECT_EQ(error_of([&] { engine.submit(request(6)); }), "");
  const std::string message = error_of([&] { engine.submit(request(7)); });
  EXPECT_NE(message.find("the prompt's 9 tokens and 7 new ones need 16"), std::string::npos);
  engine.run();
  EXPECT_EQ(out_.size(), 6u);
  // Windows and Mamba have no such end.
  EXPECT_EQ(run(small_.model(), request(300)).size(), 300u);
}

TEST_F(EngineRules, RefusesWhatItCannotRun) {
  Engine engine(small_.model(), {});
  Request empty = request(1), outside = request(1), hot = request(1);
  empty.prompt.clear();
  outside.prompt.push_back(37);
  hot.sampling.temperature = -1;
  EXPECT_NE(error_of([&] { engine.submit(empty); }).find("at least one token"), std::string::npos);
  EXPECT_NE(error_of([&] { engine.submit(outside); }).find("token id 37 is outside"),
            std::string::npos);
  EXPECT_NE(error_of([&] { engine.submit(hot); }).find("temperature"), std::string::npos);
  EXPECT_FALSE(engine.step()) << "nothing of it was taken";
  for (const Engine::Options& wrong :
       {Engine::Options{0, 512, 0, 0}, Engine::Options{1, 0, 0, 0}, Engine::Options{1, 512, 0, 38},
        Engine::Options{1, 512, 0, -1}})
    EXPECT_NE(error_of([&] { Engine(small_.model(), wrong); }), "");
}

}  // namespace
}  // namespace samba::test
