#include "model/convert.h"

#include <gtest/gtest.h>

#include <cstring>

#include "core/files.h"
#include "model/safetensors.h"
#include "model/temporary_folder.h"
#include "support/shared.h"

namespace samba::test {
namespace {

void convert(const std::string& from, const std::string& kind, const std::string& to,
             std::optional<DType> type = {}, bool pth = false) {
  convert_model(
      open_model(from), {kind, type, pth}, to, [](Index, Index) {}, [](const std::string&) {});
}

std::string bytes_of(const TensorFile& file, const std::string& name) {
  std::string all;
  file.each_piece(name, [&](std::span<const std::byte> piece) {
    all.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  });
  return all;
}

/// Every tensor of `expected` is in `actual`, of the same type and shape, byte for byte.
void expect_same_tensors(const std::string& actual, const std::string& expected) {
  const TensorFile a = open_model_tensors(actual), e = open_model_tensors(expected);
  for (const TensorInfo& tensor : e.tensors()) {
    SCOPED_TRACE(tensor.name);
    const TensorInfo* found = a.find(tensor.name);
    ASSERT_NE(found, nullptr);
    EXPECT_EQ(found->type, tensor.type);
    EXPECT_EQ(found->shape, tensor.shape);
    EXPECT_EQ(bytes_of(a, tensor.name), bytes_of(e, tensor.name));
  }
}

struct Case {
  const char* folder;  ///< below tests/data/goldens
  const char* kind;    ///< of the folder
  std::vector<const char*> kinds;
};

TEST(Convert, ThereAndBackIsTheSameToTheByte) {
  const Case cases[] = {
      {"lit_gpt/samba", "lit_gpt", {"sambalm", "lit_gpt"}},
      {"lit_gpt/mega_s6", "lit_gpt", {"sambalm", "lit_gpt"}},
      {"lit_gpt/sliding_retnet", "lit_gpt", {"sambalm", "lit_gpt", "retnet"}},
      {"hf/fla_sliding_gla", "gla", {"sambalm", "gla"}},
      {"hf/hf_mamba", "mamba", {"sambalm", "lit_gpt", "mamba", "state_spaces"}},
      {"hf/hf_llama", "llama", {"sambalm", "lit_gpt", "llama", "mistral", "gla", "retnet"}},
  };
  for (const Case& c : cases)
    for (const char* kind : c.kinds) {
      SCOPED_TRACE(text_of(c.folder, " as ", kind));
      const TemporaryFolder folder;
      const std::string from = test_file(text_of("goldens/", c.folder));
      convert(from, kind, folder / "there");
      EXPECT_EQ(open_model(folder / "there").layout.kind, kind);
      convert(folder / "there", c.kind, folder / "back");
      expect_same_tensors(folder / "back", from);
    }
}

TEST(Convert, WritesTheFilesThatAuthorsCodeReads) {
  const TemporaryFolder folder;
  const std::string samba = test_file("goldens/lit_gpt/samba");
  convert(samba, "lit_gpt", folder / "samba", {}, /*pth=*/true);
  EXPECT_TRUE(exists(folder / "samba/iter-000000-ckpt.pth"));
  EXPECT_FALSE(exists(folder / "samba/model.safetensors"));
  expect_same_tensors(folder / "samba", samba);
  convert(test_file("goldens/hf/hf_mamba"), "state_spaces", folder / "mamba");
  EXPECT_TRUE(exists(folder / "mamba/pytorch_model.bin"));
  EXPECT_FALSE(exists(folder / "mamba/model.safetensors"));
  EXPECT_NE(error_of([&] {
              convert(samba, "sambalm", folder / "never", {}, true);
            }).find("pth: expected the layout lit_gpt, found sambalm"),
            std::string::npos);
}

TEST(Convert, WritesATypeThatIsAskedFor) {
  const TemporaryFolder folder;
  convert(test_file("goldens/hf/hf_mamba"), "state_spaces", folder / "short", DType::bf16);
  const TensorFile file = open_model_tensors(folder / "short");
  for (const TensorInfo& tensor : file.tensors()) EXPECT_EQ(tensor.type, StoredType::bf16);
}

TEST(Convert, TakesTheTokenizerAlong) {
  const TemporaryFolder folder;
  std::filesystem::copy(test_file("goldens/hf/hf_llama"), folder / "from");
  std::filesystem::copy(test_file("tokenizer/small.model"), folder / "from/tokenizer.model");
  convert(folder / "from", "sambalm", folder / "to");
  EXPECT_EQ(read_text(folder / "to/tokenizer.model"),
            read_text(test_file("tokenizer/small.model")));
}

TEST(Convert, SaysWhatALayoutCannotExpress) {
  const TemporaryFolder folder;
  const auto message = [&](const char* golden, const char* kind) {
    return error_of(
        [&] { convert(test_file(text_of("goldens/", golden)), kind, folder / "never"); });
  };
  EXPECT_NE(message("lit_gpt/samba", "llama")
                .find("the layout llama cannot express this model: "
                      "layers[0]: expected {"),
            std::string::npos);
  EXPECT_NE(message("hf/hf_llama", "mamba").find("cannot express this model"), std::string::npos);
  EXPECT_NE(message("lit_gpt/samba", "gguf").find("no such layout: gguf; expected one of sambalm"),
            std::string::npos);
  EXPECT_FALSE(exists(folder / "never"));
  EXPECT_FALSE(exists(folder / "never.partial"));
}

TEST(Convert, LeavesNothingBehindWhereItFails) {
  const TemporaryFolder folder;
  std::filesystem::create_directory(folder / "there");
  const std::string golden = test_file("goldens/hf/hf_mamba");
  EXPECT_NE(error_of([&] {
              convert(golden, "sambalm", folder / "there");
            }).find("expected a new folder, found one that exists"),
            std::string::npos);
  std::filesystem::copy(golden, folder / "cut");
  std::filesystem::resize_file(folder / "cut/model.safetensors", 1000);
  EXPECT_NE(error_of([&] { convert(folder / "cut", "sambalm", folder / "new"); }), "");
  EXPECT_FALSE(exists(folder / "new"));
  EXPECT_FALSE(exists(folder / "new.partial"));
  EXPECT_NE(error_of([&] {
              convert("tiny", "lit_gpt", folder / "new");
            }).find("expected a model folder, found a preset"),
            std::string::npos);
}

}  // namespace
}  // namespace samba::test
