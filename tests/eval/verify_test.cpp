#include "eval/verify.h"

#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>

#include "model/safetensors.h"
#include "model/temporary_folder.h"
#include "model/tensor_writer.h"
#include "support/kernel_test.h"
#include "support/shared.h"

namespace samba::test {
namespace {

namespace fs = std::filesystem;

struct Golden {
  std::string folder;  ///< below "goldens/"
  bool shipped;        ///< in tests/data, else among the shared data

  /// "" where it is not on this machine.
  std::string path() const {
    return shipped ? test_file("goldens/" + folder) : shared_file("goldens/" + folder);
  }
};

std::ostream& operator<<(std::ostream& out, const Golden& golden) {
  return out << golden.folder;
}

std::vector<Golden> shipped() {
  std::vector<Golden> all;
  for (const char* name : {"lit_gpt/samba", "lit_gpt/mega_s6", "lit_gpt/sliding_retnet",
                           "hf/fla_sliding_gla", "hf/hf_llama", "hf/hf_mamba"})
    all.push_back({name, true});
  return all;
}

std::vector<Golden> shared() {
  std::vector<Golden> all;
  for (const char* name : {"lit_gpt/llama_full",
                           "lit_gpt/llama_swa",
                           "lit_gpt/llama_swa_gqa",
                           "lit_gpt/llama_swa_mqa",
                           "lit_gpt/samba",
                           "lit_gpt/samba_nope",
                           "lit_gpt/samba_mqa",
                           "lit_gpt/mamba",
                           "lit_gpt/mlp2_swa_mlp",
                           "lit_gpt/mamba_swa_mlp",
                           "lit_gpt/swa_with_full",
                           "lit_gpt/mamba_mlp_full_attn",
                           "lit_gpt/swa_short_conv",
                           "lit_gpt/mega_s6",
                           "lit_gpt/sliding_gla",
                           "lit_gpt/sliding_retnet",
                           "hf/hf_llama",
                           "hf/hf_mistral",
                           "hf/hf_mamba",
                           "hf/fla_samba",
                           "hf/fla_sliding_gla"})
    all.push_back({name, false});
  return all;
}

std::string name_of_golden(const testing::TestParamInfo<Golden>& info) {
  std::string name = info.param.folder.substr(info.param.folder.find('/') + 1);
  return (info.param.shipped ? "shipped_" : "shared_") + name;
}

constexpr VerifyMode kModes[] = {VerifyMode::parallel, VerifyMode::chunked, VerifyMode::recurrent};

/// The row of a tensor; fails the test where there is none.
VerifyRow row_of(const VerifyResult& result, const std::string& tensor) {
  for (const VerifyRow& row : result.rows)
    if (row.tensor == tensor) return row;
  ADD_FAILURE() << "no row for " << tensor;
  return {};
}

/// Copies a file of results, each tensor changed by `change` (as doubles, whatever it holds).
void rewrite(const std::string& from, const std::string& to,
             const std::function<void(const std::string&, std::vector<double>&)>& change) {
  const TensorFile file = open_safetensors(from);
  TensorWriter writer;
  std::vector<std::vector<double>> kept;
  std::vector<std::vector<std::int32_t>> ids;
  kept.reserve(file.tensors().size());
  ids.reserve(file.tensors().size());
  for (const TensorInfo& tensor : file.tensors()) {
    const Index n = tensor.count();
    std::vector<double> values(static_cast<std::size_t>(n));
    const auto view = [n](auto& v) {
      using T = std::remove_reference_t<decltype(v[0])>;
      return View{reinterpret_cast<std::byte*>(v.data()), 1, n, n, dtype_of<T>()};
    };
    const bool whole = tensor.type == StoredType::i64;
    ids.emplace_back(whole ? values.size() : 0);
    // A view of one row takes any shape only where the tensor has one dimension that is not 1.
    const Index cols = tensor.shape.back();
    const auto shaped = [&](View v) { return View{v.data, n / cols, cols, cols, v.dtype}; };
    if (whole) {
      file.read(tensor.name, shaped(view(ids.back())));
      values.assign(ids.back().begin(), ids.back().end());
    } else {
      file.read(tensor.name, shaped(view(values)));
    }
    change(tensor.name, values);
    kept.push_back(std::move(values));
    for (std::size_t i = 0; whole && i < kept.back().size(); ++i)
      ids.back()[i] = static_cast<std::int32_t>(kept.back()[i]);
    writer.add(tensor.name, tensor.type, tensor.shape,
               whole ? view(ids.back()) : view(kept.back()));
  }
  writer.write_safetensors(to);
}

class Goldens : public testing::TestWithParam<Golden> {};

TEST_P(Goldens, AreWhatThisProgramComputes) {
  const std::string folder = GetParam().path();
  SAMBA_SKIP_WITHOUT(folder, "goldens/" + GetParam().folder);
  const ModelSource source = open_model(folder);
  const std::string expected = folder + "/expected.safetensors";
  const TensorFile stored = open_safetensors(expected);
  for (const Target& target : targets())
    for (const VerifyMode mode : kModes) {
      SCOPED_TRACE(text_of(name_of(target.tier), " ", name_of(target.dtype), " mode ",
                           static_cast<int>(mode)));
      Stream stream(2, target.tier);
      const VerifyResult result = verify(source, expected, stream, target.dtype, mode, "");
      for (const VerifyRow& row : result.rows)
        EXPECT_TRUE(row.passed()) << row.tensor << ": " << row.error << " over " << row.bound;
      EXPECT_TRUE(result.passed());
      // Every stored result was compared, but gradients beside parallel mode and greedy in bf16.
      std::size_t compared = 0;
      for (const TensorInfo& tensor : stored.tensors()) {
        const bool gradient = tensor.name.starts_with("grad.");
        compared += tensor.name != "tokens" && (!gradient || mode == VerifyMode::parallel) &&
                    (tensor.name != "greedy" || target.dtype != DType::bf16);
      }
      EXPECT_EQ(result.rows.size(), compared);
      EXPECT_GE(compared, 2u);
    }
}

INSTANTIATE_TEST_SUITE_P(Shipped, Goldens, testing::ValuesIn(shipped()), name_of_golden);
INSTANTIATE_TEST_SUITE_P(Shared, Goldens, testing::ValuesIn(shared()), name_of_golden);

class Changed : public testing::TestWithParam<Golden> {
 protected:
  TemporaryFolder folder_;
  const std::string golden_ = GetParam().path();
  const std::string stored_ = golden_ + "/expected.safetensors";
  const std::string changed_ = folder_ / "changed.safetensors";
  Stream stream_{2};

  VerifyResult verify_changed(VerifyMode mode = VerifyMode::parallel, DType dtype = DType::f32) {
    return verify(open_model(golden_), changed_, stream_, dtype, mode, "");
  }
};

TEST_P(Changed, ValuesDoNotPass) {
  const TensorFile file = open_safetensors(stored_);
  for (const TensorInfo& tensor : file.tensors()) {
    if (tensor.type != StoredType::f32) continue;
    SCOPED_TRACE(tensor.name);
    // One element of all, by a hundredth of their norm.
    rewrite(stored_, changed_, [&](const std::string& name, std::vector<double>& values) {
      if (name != tensor.name) return;
      double squares = 0;
      for (const double v : values) squares += v * v;
      values[values.size() / 2] += std::sqrt(squares) / 100;
    });
    const VerifyResult result = verify_changed();
    EXPECT_FALSE(result.passed());
    for (const VerifyRow& row : result.rows)
      EXPECT_EQ(row.passed(), row.tensor != tensor.name) << row.tensor;
    EXPECT_NEAR(row_of(result, tensor.name).error, 0.01, 1e-3);
  }
}

TEST_P(Changed, ValuesThatAreNoNumbersDoNotPass) {
  rewrite(stored_, changed_, [](const std::string& name, std::vector<double>& values) {
    if (name == "logits") values[7] = std::numeric_limits<double>::quiet_NaN();
  });
  for (const VerifyMode mode : kModes)
    EXPECT_FALSE(row_of(verify_changed(mode), "logits").passed());
}

TEST_P(Changed, GreedyIdsDoNotPass) {
  if (open_safetensors(stored_).find("greedy") == nullptr) GTEST_SKIP() << "stores no greedy ids";
  for (const VerifyMode mode : kModes) {
    rewrite(stored_, changed_, [](const std::string& name, std::vector<double>& values) {
      if (name == "greedy") values.back() = values.back() == 0 ? 1 : values.back() - 1;
    });
    const VerifyResult result = verify_changed(mode);
    EXPECT_FALSE(result.passed());
    EXPECT_FALSE(row_of(result, "greedy").passed());
  }
}

TEST_P(Changed, WhatWasWrittenVerifiesAgainstItself) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f64})
    for (const VerifyMode mode : kModes) {
      const ModelSource source = open_model(golden_);
      const VerifyResult first = verify(source, stored_, stream_, dtype, mode, changed_);
      const VerifyResult again = verify(source, changed_, stream_, dtype, mode, "");
      EXPECT_TRUE(again.passed());
      for (const VerifyRow& row : again.rows) EXPECT_EQ(row.error, 0) << row.tensor;
      std::size_t greedy = 0;
      for (const VerifyRow& row : first.rows) greedy += row.tensor == "greedy";
      EXPECT_EQ(again.rows.size(), first.rows.size() - greedy);
    }
}

TEST_P(Changed, FilesThatMakeNoSenseAreRefused) {
  const auto message_with = [&](const std::string& tensor, const std::vector<Index>& shape,
                                double value) {
    TensorWriter writer;
    Index count = 1;
    for (const Index n : shape) count *= n;
    Matrix values(stream_, DType::i32, 1, count), floats(stream_, DType::f32, 1, count);
    fill(values, value);
    fill(floats, value);
    Matrix tokens(stream_, DType::i32, 1, 5);
    fill(tokens, 3);
    if (tensor != "tokens") writer.add("tokens", StoredType::i64, {1, 5}, tokens);
    const bool ids = tensor == "tokens" || tensor == "greedy";
    writer.add(tensor, ids ? StoredType::i64 : StoredType::f32, shape, ids ? values : floats);
    writer.write_safetensors(changed_);
    return error_of([&] { verify_changed(); });
  };
  const auto expect = [&](const std::string& message, const std::string& part) {
    EXPECT_NE(message.find(changed_), std::string::npos) << message;
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  expect(message_with("tokens", {5}, 1), "tokens: expected [B, T + 1], found [5]");
  expect(message_with("tokens", {1, 1}, 1), "tokens: expected [B, T + 1], found [1, 1]");
  expect(message_with("logits", {1, 4, 7}, 1), "logits: expected 1024 elements");
  expect(message_with("greedy", {4}, 3), "greedy: expected [1, n], found [4]");
  EXPECT_NE(message_with("tokens", {1, 5}, 256), "");
  EXPECT_NE(message_with("tokens", {1, 5}, -1), "");
  EXPECT_NE(message_with("greedy", {1, 6}, 999), "");
  EXPECT_NE(message_with("grad.no.such.tensor", {4}, 1).find("no.such.tensor"), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Shipped, Changed, testing::ValuesIn(shipped()), name_of_golden);

TEST(Verify, ReadsCheckpointsOfTorch) {
  const std::string found = shared_file("goldens/lit_gpt");
  SAMBA_SKIP_WITHOUT(found, "goldens/lit_gpt");
  for (const char* name : {"samba", "mamba", "llama_swa_gqa", "mamba_swa_mlp", "sliding_retnet"}) {
    SCOPED_TRACE(name);
    const TemporaryFolder folder;
    for (const auto& entry : fs::directory_iterator(fs::path(found) / name))
      if (entry.path().filename() != "model.safetensors")
        fs::copy(entry.path(), folder / entry.path().filename());
    ASSERT_TRUE(fs::exists(folder / "iter-000008-ckpt.pth"));
    Stream stream(2);
    const VerifyResult result = verify(open_model(folder.path()), folder / "expected.safetensors",
                                       stream, DType::f32, VerifyMode::parallel, "");
    EXPECT_TRUE(result.passed());
    EXPECT_GE(result.rows.size(), 2u);
  }
}

TEST(Verify, KnowsItsModes) {
  EXPECT_EQ(verify_mode("parallel"), VerifyMode::parallel);
  EXPECT_EQ(verify_mode("chunked"), VerifyMode::chunked);
  EXPECT_EQ(verify_mode("recurrent"), VerifyMode::recurrent);
  EXPECT_NE(error_of([] { verify_mode("serial"); }).find("parallel, chunked or recurrent"),
            std::string::npos);
}

}  // namespace
}  // namespace samba::test
