#include "model/llama2c.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <sstream>

#include "core/files.h"
#include "model/folder.h"
#include "model/temporary_folder.h"
#include "support/compare.h"
#include "support/shared.h"

namespace samba::test {
namespace {

constexpr const char* kFolder = "data/weights/stories260K";

/// The logits of every token of the stored greedy run.
Matrix logits_of(Model& model, const std::vector<int>& ids) {
  const auto count = static_cast<Index>(ids.size());
  const std::vector<Span> spans{{0, count, 0}};
  Pass pass{model.stream(), batch_of(spans), nullptr, false};
  Matrix tokens(model.stream(), DType::i32, count, 1);
  for (Index i = 0; i < count; ++i) *tokens.row<std::int32_t>(i) = ids[static_cast<std::size_t>(i)];
  Matrix x(model.stream(), model.dtype(), count, model.config().d_model);
  Matrix logits(model.stream(), DType::f32, count, model.config().vocab);
  model.forward(pass, tokens, x);
  model.head(pass, x, logits);
  return logits;
}

TEST(Llama2c, ReproducesTheLogitsAndGreedyTokensOfTheReference) {
  const std::string folder = shared_file(kFolder);
  SAMBA_SKIP_WITHOUT(folder, kFolder);
  std::vector<int> ids;
  std::istringstream text(read_text(folder + "/greedy.tokens.txt"));
  for (int id; text >> id;) ids.push_back(id);
  ASSERT_EQ(ids.size(), 257u);
  for (const Tier tier : {Tier::plain, best_tier()}) {
    Stream stream(2, tier);
    const auto model =
        load_model(open_model(folder + "/stories260K.bin"), stream, DType::f32, false);
    const Matrix logits = logits_of(*model, ids);
    const std::string stored = read_text(folder + "/greedy.logits_first32.f32");
    const Index vocab = model->config().vocab;
    ASSERT_EQ(stored.size(), static_cast<std::size_t>(32 * vocab * 4));
    for (Index t = 0; t < 32; ++t)
      for (Index v = 0; v < vocab; ++v) {
        float expected = 0;
        std::memcpy(&expected, stored.data() + (t * vocab + v) * 4, 4);
        ASSERT_NEAR(logits.row<float>(t)[v], expected, 1e-4) << t << ", " << v;
      }
    for (std::size_t t = 0; t + 1 < ids.size(); ++t) {
      const float* row = logits.row<float>(static_cast<Index>(t));
      ASSERT_EQ(std::max_element(row, row + vocab) - row, ids[t + 1]) << "token " << t;
    }
  }
}

/// A file of a header and `numbers` floats.
std::string write_file(const std::string& path, const std::vector<std::int32_t>& header,
                       std::size_t numbers) {
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(header.data()),
            static_cast<std::streamsize>(header.size() * 4));
  const std::vector<float> zeros(numbers);
  out.write(reinterpret_cast<const char*>(zeros.data()), static_cast<std::streamsize>(numbers * 4));
  return path;
}

TEST(Llama2c, RefusesFilesThatAreNotWhatTheirHeadersSay) {
  const TemporaryFolder folder;
  // dim 8, hidden 6, 1 layer, 2 heads, 1 kv head, vocabulary 10, length 4.
  const std::vector<std::int32_t> good{8, 6, 1, 2, 1, 10, 4};
  const std::size_t numbers = 80 + 8 + 64 + 32 + 32 + 64 + 8 + 48 + 48 + 48 + 8 + 16;
  const auto message = [&](const std::vector<std::int32_t>& header, std::size_t count) {
    const std::string path = write_file(folder / "model.bin", header, count);
    return error_of([&] {
      Stream stream(1, Tier::plain);
      load_model(open_model(path), stream, DType::f32, false);
    });
  };
  EXPECT_EQ(message(good, numbers), "");
  EXPECT_EQ(message({8, 6, 1, 2, 1, -10, 4}, numbers + 80), "");
  EXPECT_NE(message(good, numbers - 1).find("model.bin: expected tensor"), std::string::npos);
  EXPECT_NE(message(good, numbers + 1).find("model.bin: expected"), std::string::npos);
  EXPECT_NE(message({8, 6}, 0).find("expected a llama2.c checkpoint of 28 bytes"),
            std::string::npos);
  EXPECT_NE(message({8, 6, 1, 3, 1, 10, 4}, numbers).find("expected heads"), std::string::npos);
  EXPECT_NE(message({8, 6, 1, 2, 0, 10, 4}, numbers).find("n_kv_heads: expected 1 to"),
            std::string::npos);
  EXPECT_NE(message({8, 6, 1 << 30, 2, 1, 10, 4}, numbers).find("n_layers"), std::string::npos);
  EXPECT_NE(message({1 << 20, 1 << 20, 100, 2, 1, 1 << 20, 4}, numbers), "");
}

}  // namespace
}  // namespace samba::test
