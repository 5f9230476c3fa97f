#include "kernels/embedding.h"

#include <cmath>

#include "core/error.h"
#include "kernels/run.h"
#include "support/kernel_test.h"

namespace samba::test {
namespace {

class Embedding : public KernelTest {};
SAMBA_KERNEL_TEST(Embedding);

const std::vector<int> kTokens = {3, 0, 10, 3, 3, 7, 0};
constexpr Index kCount = 7, kVocabulary = 11;

TEST_P(Embedding, ReadsARowForEachToken) {
  for (const Index width : {1, 33, 100}) {
    const Host w = random(kVocabulary, width, dtype(), 1);
    const View y = empty(kCount, width, exact(), 3);
    run(stream(), op::Embedding{.y = y, .tokens = ids(kTokens), .w = upload(w, dtype(), 5)});
    Host expected(kCount, width);
    for (Index n = 0; n < kCount; ++n)
      for (Index i = 0; i < width; ++i) expected(n, i) = w(kTokens[static_cast<std::size_t>(n)], i);
    expect_same(host(y), expected);
  }
}

TEST_P(Embedding, BackwardAddsInTheOrderOfTheTokens) {
  // 3000 tokens are enough work for a second thread even at 33 columns.
  std::vector<int> tokens;
  for (int n = 0; n < 3000; ++n) tokens.push_back(kTokens[static_cast<std::size_t>(n % 7)]);
  for (const Index width : {1, 33}) {
    const Host dy = random(3000, width, exact(), 1),
               before = random(kVocabulary, width, exact(), 2);
    const View dw = upload(before, exact(), 3);
    run(stream(),
        op::EmbeddingBackward{.dw = dw, .dy = upload(dy, exact(), 1), .tokens = ids(tokens)});
    Host expected = before;
    for (Index n = 0; n < 3000; ++n)
      for (Index i = 0; i < width; ++i) {
        double& sum = expected(tokens[static_cast<std::size_t>(n)], i);
        sum += dy(n, i);
        if (exact() == DType::f32) sum = static_cast<float>(sum);
      }
    expect_same(host(dw), expected);
  }
}

TEST_P(Embedding, BackwardTakesLargeVocabulariesAndWideRows) {
  SAMBA_SKIP_ON_SLOWER_TIERS();
  // Ids of three bytes, most of them once, some of them often; rows of several blocks of a GPU.
  constexpr Index kRows = 5000, kMany = 70001;
  for (const Index width : {4, 1028}) {
    const Index vocabulary = width == 4 ? kMany : 300;
    std::vector<int> tokens;
    for (Index n = 0; n < kRows; ++n)
      tokens.push_back(static_cast<int>(n % 3 == 0 ? vocabulary - 1 : n * n * 7919 % vocabulary));
    const Host dy = random(kRows, width, exact(), 1),
               before = random(vocabulary, width, exact(), 2);
    const View dw = upload(before, exact());
    run(stream(),
        op::EmbeddingBackward{.dw = dw, .dy = upload(dy, exact()), .tokens = ids(tokens)});
    Host expected = before;
    for (Index n = 0; n < kRows; ++n)
      for (Index i = 0; i < width; ++i) {
        double& sum = expected(tokens[static_cast<std::size_t>(n)], i);
        sum += dy(n, i);
        if (exact() == DType::f32) sum = static_cast<float>(sum);
      }
    expect_same(host(dw), expected);
  }
}

TEST_P(Embedding, NamesTheFirstTokenThatIsNoRow) {
  const View w = empty(kVocabulary, 4), y = empty(3, 4, exact()),
             dw = empty(kVocabulary, 4, exact());
  const auto message = [&](const std::vector<int>& tokens, bool backward) {
    try {
      if (backward)
        run(stream(), op::EmbeddingBackward{.dw = dw, .dy = y, .tokens = ids(tokens)});
      else
        run(stream(), op::Embedding{.y = y, .tokens = ids(tokens), .w = w});
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("nothing was thrown");
  };
  if (GetParam().cuda) {  // it cannot throw: such tokens mark their rows
    const Host table = random(kVocabulary, 4, dtype(), 1);
    const View marked = empty(3, 4, exact()), sums = zeros(kVocabulary, 4, exact());
    const View bad = ids({10, 11, -5});
    run(stream(), op::Embedding{.y = marked, .tokens = bad, .w = upload(table)});
    const Host ones = [] {
      Host all(3, 4);
      for (double& value : all.values) value = 1;
      return all;
    }();
    run(stream(), op::EmbeddingBackward{.dw = sums, .dy = upload(ones, exact()), .tokens = bad});
    for (Index i = 0; i < 4; ++i) {
      EXPECT_EQ(host(marked)(0, i), table(10, i));
      EXPECT_TRUE(std::isnan(host(marked)(1, i)) && std::isnan(host(marked)(2, i)));
      for (Index id = 0; id < kVocabulary; ++id) EXPECT_EQ(host(sums)(id, i), id == 10 ? 1 : 0);
    }
  } else {
    EXPECT_EQ(message({10, 11, -5}, false),
              "embedding: tokens: expected an id from 0 to 10, found 11 in row 1");
    EXPECT_EQ(message({10, 0, -1}, true),
              "embedding_backward: tokens: expected an id from 0 to 10, found -1 in row 2");
  }
  EXPECT_EQ(message({0}, false), std::string("embedding: y: expected ") + name_of(exact()) +
                                     "[1 x 4], found " + name_of(exact()) + "[3 x 4]");
}

}  // namespace
}  // namespace samba::test
