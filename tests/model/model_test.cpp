#include "model/model.h"

#include <gtest/gtest.h>

#include <cmath>

#include "support/gradient.h"
#include "support/kernel_test.h"
#include "support/reference.h"
#include "support/shared.h"
#include "support/small_model.h"

namespace samba::test {
namespace {

using Ids = std::vector<int>;

Host rows(const Host& x, Index first, Index count) {
  Host part(count, x.cols);
  for (Index r = 0; r < count; ++r)
    for (Index c = 0; c < x.cols; ++c) part(r, c) = x(first + r, c);
  return part;
}

Ids part(const Ids& ids, Index first, Index count) {
  return {ids.begin() + first, ids.begin() + first + count};
}

void append(Ids& to, const Ids& more) {
  to.insert(to.end(), more.begin(), more.end());
}

void expect_same_gradients(const SmallModel& actual, const std::vector<Host>& expected) {
  const std::vector<Host> found = actual.gradients();
  for (std::size_t i = 0; i < expected.size(); ++i) {
    SCOPED_TRACE(i);
    expect_same(found[i], expected[i]);
  }
}

ModelConfig named(std::string name, ModelConfig config) {
  config.name = std::move(name);
  return config;
}

/// The small model with other layers.
ModelConfig only(std::string name, const char* layers) {
  ModelConfig config = named(std::move(name), small_samba());
  config.layers = {};
  for (const Json& layer : parse_json(layers, "layers")) config.layers.push_back(layer);
  return config;
}

/// Layers that norm the residual stream themselves: first, last, behind one another and beside
/// others.
ModelConfig mega() {
  return only("mega", R"([{"type": "mega_s6", "chunk": 9, "z_width": 8},
                          {"type": "swiglu", "d_ff": 20},
                          {"type": "mega_s6", "z_width": 4, "d_state": 3},
                          {"type": "mega_s6", "chunk": 5, "z_width": 6}])");
}

class WholeModel : public testing::TestWithParam<Target> {
 protected:
  static constexpr Index kTokens = 37;

  void SetUp() override { SAMBA_SKIP_WITHOUT_GPU(GetParam()); }
  DType dtype() const { return GetParam().dtype; }
  SmallModel make(const ModelConfig& config = small_samba(), bool training = true) const {
    return SmallModel(config, GetParam(), training);
  }
  Ids ids(int seed, Index count = kTokens) const { return random_ids(count, 37, seed); }
};

TEST_P(WholeModel, LosesTheCrossEntropyOfItsLogits) {
  SmallModel small = make();
  const std::vector<Span> spans{{0, 30, 0}, {30, 7, 0}};
  Ids targets = ids(2);
  targets[3] = targets[36] = -1;
  Host each;
  const double sum = small.loss(ids(1), targets, spans, &each);
  const Host logits = small.logits(ids(1), spans);
  const Host expected = reference::cross_entropy(logits, targets);
  expect_close(each, expected, exact_of(dtype()), logits.cols);
  EXPECT_EQ(each(3, 0), 0);
  double total = 0;
  for (const double loss : each.values) total += loss;
  EXPECT_DOUBLE_EQ(sum, total);
  // A training pass rounds what layers add to the stream.
  Host trained(1, 1), inferred(1, 1);
  trained(0, 0) = small.loss_and_gradient(ids(1), targets, spans);
  inferred(0, 0) = sum;
  expect_close(trained, inferred, exact_of(dtype()), {.terms = kTokens, .rounded = dtype()});
}

TEST_P(WholeModel, RecomputingLeavesTheSameGradients) {
  const std::vector<Span> spans{{0, 12, 0}, {12, 1, 0}, {13, 24, 0}};
  for (const ModelConfig& config : {small_samba(), mega()}) {
    SmallModel small = make(config);
    const double kept = small.loss_and_gradient(ids(1), ids(2), spans);
    const std::vector<Host> gradients = small.gradients();
    small.model().set_recompute(true);
    EXPECT_EQ(small.loss_and_gradient(ids(1), ids(2), spans), kept);
    expect_same_gradients(small, gradients);
  }
}

TEST_P(WholeModel, ComputesTheSameGradientsTwice) {
  const std::vector<Span> spans{{0, kTokens, 0}};
  SmallModel small = make();
  small.loss_and_gradient(ids(1), ids(2), spans);
  const std::vector<Host> gradients = small.gradients();
  small.loss_and_gradient(ids(1), ids(2), spans);
  expect_same_gradients(small, gradients);
}

TEST_P(WholeModel, PackingTheWeightsLeavesTheSameLogits) {
  const std::vector<Span> spans{{0, 30, 0}, {30, 7, 0}};
  for (const ModelConfig& config : {small_samba(true), small_samba(false), mega()}) {
    SmallModel small = make(config, false);
    const Host logits = small.logits(ids(1), spans);
    small.model().pack();
    expect_same(small.logits(ids(1), spans), logits);
  }
}

TEST_P(WholeModel, CompanyInTheBatchLeavesTheSameLogits) {
  for (const Index window : {5, 0}) {
    SmallModel small = make(small_samba(true, window), false);
    const Ids own = ids(1, 11), other = ids(2, 26);
    const Host alone = small.logits(own, {{0, 11, 0}});
    Ids packed = part(other, 0, 6);
    append(packed, own);
    append(packed, part(other, 6, 20));
    const Host y = small.logits(packed, {{0, 6, 0}, {6, 11, 0}, {17, 1, 0}, {18, 19, 0}});
    expect_same(rows(y, 6, 11), alone);
  }
}

TEST_P(WholeModel, GeneratingBesideOthersLeavesTheSameLogits) {
  SmallModel small = make(small_samba(true, 0), false);
  const Ids own = ids(1, 12), other = ids(2, 20);
  States states = small.model().make_states(1, kTokens);
  small.logits(part(own, 0, 10), {{0, 10, 0, 0}}, &states);
  const Host eleventh = small.logits(part(own, 10, 1), {{0, 1, 10, 0}}, &states);
  const Host twelfth = small.logits(part(own, 11, 1), {{0, 1, 11, 0}}, &states);

  States shared = small.model().make_states(3, kTokens);
  Ids packed = part(other, 0, 4);
  append(packed, part(own, 0, 10));
  small.logits(packed, {{0, 4, 0, 0}, {4, 10, 0, 2}}, &shared);
  packed = {other[4], own[10]};
  append(packed, part(other, 5, 9));
  const Host y = small.logits(packed, {{0, 1, 4, 0}, {1, 1, 10, 2}, {2, 9, 0, 1}}, &shared);
  expect_same(rows(y, 1, 1), eleventh);
  packed = {own[11], other[14]};
  expect_same(rows(small.logits(packed, {{0, 1, 11, 2}, {1, 1, 9, 1}}, &shared), 0, 1), twelfth);
}

TEST_P(WholeModel, RefusesIdsOutsideItsVocabulary) {
  SmallModel small = make();
  if (GetParam().cuda) {  // kernels of a GPU cannot refuse: what they make of such an id is NaN
    for (const int id : {-1, 37, 1'000'000})
      EXPECT_TRUE(std::isnan(small.logits({1, id}, {{0, 2, 0}})(1, 0)));
    EXPECT_TRUE(std::isnan(small.loss({1, 2}, {2, 37}, {{0, 2, 0}})));
    return;
  }
  for (const int id : {-1, 37, 1'000'000}) {
    const std::string message = error_of([&] { small.logits({1, id}, {{0, 2, 0}}); });
    EXPECT_NE(message.find("expected an id from 0 to 36, found " + std::to_string(id)),
              std::string::npos)
        << message;
  }
  EXPECT_NE(error_of([&] { small.loss({1, 2}, {2, 37}, {{0, 2, 0}}); }), "");
}

SAMBA_KERNEL_TEST(WholeModel);

class ExactModel : public testing::TestWithParam<ModelConfig> {
 protected:
  SmallModel make() const { return SmallModel(GetParam(), Target{Tier::plain, DType::f64}); }
  Ids ids(int seed, Index count) const { return random_ids(count, GetParam().vocab, seed); }
};

TEST_P(ExactModel, BackwardMatchesFiniteDifferences) {
  SmallModel small = make();
  const std::vector<Span> spans{{0, 9, 0}, {9, 4, 0}};
  Ids targets = ids(2, 13);
  targets[5] = -1;
  small.loss_and_gradient(ids(1, 13), targets, spans);
  const std::vector<Host> gradients = small.gradients();
  const auto loss = [&] { return small.loss(ids(1, 13), targets, spans) / 13; };
  std::size_t i = 0;
  for (Parameter& p : small.model().parameters()) {
    SCOPED_TRACE(p.name);
    expect_gradient(p.value, gradients[i++], loss, 16);
  }
}

TEST_P(ExactModel, CuttingASequenceLeavesTheSameLogits) {
  SmallModel small = make();
  const Ids all = ids(1, 37);
  const Host whole = small.logits(all, {{0, 37, 0}});
  States states = small.model().make_states(2, 37);
  Index first = 0;
  for (const Index end : {20, 21, 22, 23, 28, 29, 37}) {
    SCOPED_TRACE(end);
    const Index n = end - first;
    expect_same(small.logits(part(all, first, n), {{0, n, first, 1}}, &states),
                rows(whole, first, n));
    first = end;
  }
}

TEST_P(ExactModel, PackedDocumentsTrainAsSeparateOnes) {
  const Ids all = ids(1, 37), targets = ids(2, 37);
  const std::vector<Index> starts{0, 12, 13, 37};
  SmallModel packed = make(), separate = make();
  std::vector<Span> spans;
  double sum = 0;
  std::vector<Host> expected;
  for (std::size_t i = 0; i + 1 < starts.size(); ++i) {
    const Index n = starts[i + 1] - starts[i];
    spans.push_back({starts[i], n, 0});
    sum += separate.loss_and_gradient(part(all, starts[i], n), part(targets, starts[i], n),
                                      {{0, n, 0}});
    const double share = static_cast<double>(n) / 37;
    const std::vector<Host> own = separate.gradients();
    expected.resize(own.size());
    for (std::size_t k = 0; k < own.size(); ++k) {
      if (i == 0) expected[k] = Host(own[k].rows, own[k].cols);
      for (std::size_t e = 0; e < own[k].values.size(); ++e)
        expected[k].values[e] += share * own[k].values[e];
    }
  }
  EXPECT_DOUBLE_EQ(packed.loss_and_gradient(all, targets, spans), sum);
  // What is summed behind one gradient: the tokens, the widths of the layers above, the vocabulary.
  constexpr Index kTerms = 37 * 37 * 48;
  const std::vector<Host> found = packed.gradients();
  for (std::size_t k = 0; k < found.size(); ++k) {
    SCOPED_TRACE(packed.model().parameters()[k].name);
    expect_close(found[k], expected[k], DType::f64, kTerms);
  }
}

TEST_P(ExactModel, OperationsOfAPassAreThoseOfItsPieces) {
  SmallModel small = make();
  const Model& model = small.model();
  for (const Index cut : {1, 4, 5, 6, 30})
    EXPECT_DOUBLE_EQ(model.flops(0, cut) + model.flops(cut, 40 - cut), model.flops(0, 40));
}

TEST_P(ExactModel, StatesTakeTheBytesThatAreStated) {
  SmallModel small = make();
  for (const Index context : {1, 100}) {
    Index bytes = 0;
    for (const Matrix& state : small.model().make_states(3, context)) {
      EXPECT_EQ(state.rows(), 3);
      bytes += state.bytes();
    }
    EXPECT_EQ(bytes, 3 * small.model().state_bytes(context));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Configs, ExactModel,
    testing::Values(named("tied", small_samba(true)), named("untied", small_samba(false)),
                    named("full", small_samba(true, 0)), only("empty", "[]"),
                    only("mamba", R"([{"type": "mamba"}, {"type": "mamba", "conv_bias": false}])"),
                    only("attention",
                         R"([{"type": "attention", "heads": 4, "window": 3, "rope": false},
                                          {"type": "attention", "heads": 4, "kv_heads": 2}])"),
                    mega(), only("parallel", R"([{"type": "parallel", "layers": [
                                            {"type": "mamba", "d_state": 3}, {"type": "swiglu", "d_ff": 9}]},
                                         {"type": "parallel", "layers": [
                                            {"type": "attention", "heads": 4, "window": 5, "short_conv": 4,
                                             "qkv_bias": true},
                                            {"type": "swiglu", "d_ff": 9}]}])")),
    [](const auto& i) { return i.param.name; });

TEST(Model, ReadsALargeVocabularyInPieces) {
  ModelConfig config = small_samba();
  config.vocab = 300'000;  // logits of 40 rows are then more than are held at a time
  config.d_model = 8;
  config.layers = {};
  SmallModel small(config, Target{Tier::plain, DType::f64});
  const Ids ids = random_ids(40, config.vocab, 1), targets = random_ids(40, config.vocab, 2);
  Host whole;
  const double sum = small.loss(ids, targets, {{0, 40, 0}}, &whole);
  EXPECT_EQ(small.loss_and_gradient(ids, targets, {{0, 40, 0}}), sum);
  for (const Index i : {0, 15, 16, 31, 32, 39}) {
    Host each;
    small.loss(part(ids, i, 1), part(targets, i, 1), {{0, 1, 0}}, &each);
    expect_same(each, rows(whole, i, 1));
  }
  // The gradient of the last norm sums over every row; differences see a piece that is left out.
  const auto loss = [&] { return small.loss(ids, targets, {{0, 40, 0}}) / 40; };
  Parameter& norm = small.model().parameters().back();
  ASSERT_EQ(norm.name, "norm.weight");
  expect_gradient(norm.value, host(norm.grad), loss, 2);
}

}  // namespace
}  // namespace samba::test
