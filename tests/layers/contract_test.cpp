#include <gtest/gtest.h>

#include <ostream>

#include "support/gradient.h"
#include "support/kernel_test.h"
#include "support/small_layer.h"

// The contract that every registered layer keeps. A new layer is tested by being listed.

namespace samba::test {
namespace {

struct Case {
  std::string name;
  Json entry;
  Target target;
};

/// What a failure shows of it; the test's name says the rest.
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.entry.dump();
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const LayerType& type : layer_types())
    for (std::size_t i = 0; i < type.examples.size(); ++i)
      for (const Target& target : targets())
        all.push_back(
            {type.name + std::to_string(i) + "_" + name_of(target), type.examples[i], target});
  return all;
}

class Contract : public testing::TestWithParam<Case> {
 protected:
  static constexpr Index kTokens = 37;
  /// More than two of the chunks that kernels work in.
  static constexpr Index kLong = 150;

  void SetUp() override { SAMBA_SKIP_WITHOUT_GPU(GetParam().target); }
  DType dtype() const { return GetParam().target.dtype; }
  SmallLayer make(int threads = 2) const {
    return SmallLayer(GetParam().entry, GetParam().target, threads);
  }
  Host input(int seed, Index tokens = kTokens) const {
    return random(tokens, SmallLayer::kWidth, DType::bf16, seed);
  }
  /// Same values: to the bit in float64, else within the law. In bf16 the layer's intermediates are
  /// rounded, about this many one after the other.
  void expect_equal(const Host& actual, const Host& expected) const {
    if (dtype() == DType::f64) return expect_same(actual, expected);
    expect_close(actual, expected, dtype(), law(expected.rows));
  }
  /// A weight's gradient sums over tokens what sums over the inner width, three times d_model here.
  Law law(Index tokens) const {
    return {.terms = tokens * 3 * SmallLayer::kWidth, .rounded = dtype(), .roundings = 6};
  }
  /// The output and every gradient are those of float64, for sequences that the spans describe.
  void expect_float64(const std::vector<Span>& spans) const;
};

Host rows(const Host& x, Index first, Index count) {
  Host part(count, x.cols);
  for (Index r = 0; r < count; ++r)
    for (Index c = 0; c < x.cols; ++c) part(r, c) = x(first + r, c);
  return part;
}

void append(Host& to, const Host& more) {
  to.cols = more.cols;
  to.rows += more.rows;
  to.values.insert(to.values.end(), more.values.begin(), more.values.end());
}

/// The output where x is read in pieces that end at `cuts`, with states carried on.
Host in_pieces(SmallLayer& layer, const Host& x, const std::vector<Index>& cuts) {
  States states = layer.make_states(2, x.rows);
  Host y;
  Index first = 0;
  for (const Index end : cuts) {
    append(y, layer.forward(rows(x, first, end - first), {{0, end - first, first, 1}}, &states));
    first = end;
  }
  return y;
}

/// dx and the gradients of all parameters of a float64 layer against finite differences.
void expect_gradients(SmallLayer& small, const Host& x, const std::vector<Span>& spans,
                      const Host& dy, int samples) {
  const Host dx = small.backward(x, spans, dy);
  std::vector<Host> gradients;
  for (const Parameter& p : small.parameters()) gradients.push_back(host(p.grad));
  Host moved = x;
  const View view{reinterpret_cast<std::byte*>(moved.values.data()), x.rows, x.cols, x.cols,
                  DType::f64};
  const auto loss = [&] { return dot(dy, small.forward(moved, spans)); };
  expect_gradient(view, dx, loss, samples);
  std::size_t i = 0;
  for (Parameter& p : small.parameters()) {
    SCOPED_TRACE(p.name);
    expect_gradient(p.value, gradients[i++], loss, samples);
  }
}

TEST_P(Contract, BackwardMatchesFiniteDifferences) {
  if (dtype() != DType::f64) return;
  SmallLayer small = make();
  expect_gradients(small, input(1, 13), {{0, 9, 0}, {9, 4, 0}}, input(2, 13), 64);
}

/// The output, dx, and every parameter's gradient.
std::vector<Host> results(SmallLayer& layer, const Host& x, const std::vector<Span>& spans,
                          const Host& dy) {
  std::vector<Host> all{layer.forward(x, spans), layer.backward(x, spans, dy)};
  for (const Parameter& p : layer.parameters()) all.push_back(host(p.grad));
  return all;
}

/// Raises each row of `spread` to the rms of a - b.
void raise(Host& spread, const Host& a, const Host& b) {
  for (Index r = 0; r < a.rows; ++r) {
    double squares = 0;
    for (Index c = 0; c < a.cols; ++c) squares += (a(r, c) - b(r, c)) * (a(r, c) - b(r, c));
    spread(r, 0) = std::max(spread(r, 0), std::sqrt(squares / static_cast<double>(a.cols)));
  }
}

void Contract::expect_float64(const std::vector<Span>& spans) const {
  const Index tokens = spans.back().first + spans.back().length;
  SmallLayer small = make(), exact(GetParam().entry, Target{Tier::plain, DType::f64});
  const Host x = input(1, tokens), dy = input(2, tokens);
  const std::vector<Host> actual = results(small, x, spans, dy),
                          expected = results(exact, x, spans, dy);
  // Linear attention norms inside itself, where a sum may cancel almost; Mega-S6 is two layers in a
  // row. How far a rounding of their inputs carries is measured. The others need no leave.
  const std::string type = GetParam().entry.at("type").get<std::string>();
  std::vector<int> seeds;
  if (type == "gla" || type == "retention" || type == "mega_s6") seeds = {1000, 2000, 3000, 4000};
  std::vector<Host> spread;
  for (const Host& e : expected) spread.emplace_back(e.rows, 1);
  for (const int seed : seeds) {
    SmallLayer moved(GetParam().entry, Target{Tier::plain, DType::f64});
    moved.shake(dtype(), seed);
    const std::vector<Host> near = results(moved, shaken(x, dtype(), seed), spans, dy);
    for (std::size_t i = 0; i < near.size(); ++i) raise(spread[i], near[i], expected[i]);
  }
  for (std::size_t i = 0; i < actual.size(); ++i) {
    SCOPED_TRACE(i == 0 ? "y" : i == 1 ? "dx" : small.parameters()[i - 2].name);
    Law own = law(tokens);
    own.spread = spread[i];
    expect_close(actual[i], expected[i], dtype(), own);
  }
}

TEST_P(Contract, MatchesFloat64) {
  expect_float64({{0, 30, 0}, {30, 7, 0}});
}

TEST_P(Contract, AddsToTheStreamThatItReads) {
  SmallLayer small = make();
  const Host stream = random(kTokens, SmallLayer::kWidth, DType::f32, 1, 3);
  const Host norm = random(1, SmallLayer::kWidth, DType::f32, 2);
  const auto [after, alone] = small.forward_on_stream(stream, norm, {{0, 30, 0}, {30, 7, 0}});
  Host expected = stream;
  for (std::size_t i = 0; i < expected.values.size(); ++i) expected.values[i] += alone.values[i];
  expect_close(after, expected, exact_of(dtype()), law(1));
}

TEST_P(Contract, CuttingASequenceChangesNothing) {
  SmallLayer small = make();
  const Host x = input(1);
  expect_equal(in_pieces(small, x, {20, 21, 22, 23, 28, 29, kTokens}),
               small.forward(x, {{0, kTokens, 0}}));
}

TEST_P(Contract, ChunksChangeNothing) {
  SmallLayer small = make();
  const Host x = input(1, kLong);
  // The chunks of the pieces end elsewhere than those of the whole.
  expect_equal(in_pieces(small, x, {70, 75, 76, 139, kLong}), small.forward(x, {{0, kLong, 0}}));
  // Forward knows no chunks in float64, backward does. bf16 differs from f32 in what is rounded on
  // the way, not in its chunks.
  if (dtype() == DType::f64) expect_gradients(small, x, {{0, kLong, 0}}, input(2, kLong), 2);
  if (dtype() == DType::f32) expect_float64({{0, kLong, 0}});
}

TEST_P(Contract, CompanyInTheBatchChangesNothing) {
  SmallLayer small = make();
  const Host x = input(1), others = input(2);
  const Host alone = small.forward(rows(x, 0, 11), {{0, 11, 0}});
  Host packed = rows(others, 0, 6);
  append(packed, rows(x, 0, 11));
  append(packed, rows(others, 6, 20));
  const Host y = small.forward(packed, {{0, 6, 0}, {6, 11, 0}, {17, 1, 0}, {18, 19, 0}});
  // Not within a tolerance: an answer must not depend on who else is served.
  expect_same(rows(y, 6, 11), alone);
}

TEST_P(Contract, SavedStateResumes) {
  SmallLayer small = make();
  const Host x = input(1), others = input(2);
  States states = small.make_states(3, kTokens);
  small.forward(rows(x, 0, 20), {{0, 20, 0, 2}}, &states);
  std::vector<Host> saved;
  for (const Matrix& state : states) saved.push_back(host(state));
  const Host expected = small.forward(rows(x, 20, 17), {{0, 17, 20, 2}}, &states);
  // Another sequence takes the slot; then the first one's row comes back, in another slot.
  small.forward(others, {{0, kTokens, 0, 2}}, &states);
  for (std::size_t i = 0; i < states.size(); ++i)
    for (Index c = 0; c < states[i].cols(); ++c) {
      Host value(1, 1);
      value(0, 0) = saved[i](2, c);
      copy(states[i].view().block(0, 1).columns(c, 1),
           View{reinterpret_cast<std::byte*>(value.values.data()), 1, 1, 1, DType::f64});
    }
  expect_same(small.forward(rows(x, 20, 17), {{0, 17, 20, 0}}, &states), expected);
}

TEST_P(Contract, ADocumentBeginsFromNothing) {
  SmallLayer small = make();
  const Host x = input(1), others = input(2);
  States states = small.make_states(1, kTokens);
  const Host fresh = small.forward(x, {{0, kTokens, 0, 0}}, &states);
  small.forward(others, {{0, kTokens, 0, 0}}, &states);
  expect_same(small.forward(x, {{0, kTokens, 0, 0}}, &states), fresh);
}

TEST_P(Contract, RecomputingChangesNothing) {
  SmallLayer small = make();
  const std::vector<Span> spans{{0, kTokens, 0}};
  const Host x = input(1), dy = input(2);
  const Host dx = small.backward(x, spans, dy);
  Matrix in(small.stream(), dtype(), x.rows, x.cols), out(small.stream(), dtype(), x.rows, x.cols);
  fill(in, 0.5);
  Pass pass{small.stream(), batch_of(spans), nullptr, true};
  small.layer().forward(pass, in, out);
  small.layer().drop();
  expect_same(small.backward(x, spans, dy), dx);
}

TEST_P(Contract, TwiceIsTheSame) {
  SmallLayer small = make();
  const std::vector<Span> spans{{0, 30, 0}, {30, 7, 0}};
  const Host x = input(1), dy = input(2);
  const Host y = small.forward(x, spans), dx = small.backward(x, spans, dy);
  std::vector<Host> gradients;
  for (const Parameter& p : small.parameters()) gradients.push_back(host(p.grad));
  expect_same(small.forward(x, spans), y);
  expect_same(small.backward(x, spans, dy), dx);
  for (std::size_t i = 0; i < gradients.size(); ++i)
    expect_same(host(small.parameters()[i].grad), gradients[i]);
}

INSTANTIATE_TEST_SUITE_P(Layers, Contract, testing::ValuesIn(cases()),
                         [](const auto& i) { return i.param.name; });

}  // namespace
}  // namespace samba::test
