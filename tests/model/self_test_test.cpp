#include "model/self_test.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "core/files.h"
#include "layers/registry.h"
#include "model/temporary_folder.h"
#include "support/target.h"

namespace samba::test {
namespace {

/// A model with the first example of every type of layer.
ModelConfig every_layer() {
  ModelConfig config;
  config.name = "every layer";
  config.vocab = 99;
  config.d_model = 24;
  config.context = 64;
  for (const LayerType& type : layer_types()) config.layers.push_back(type.examples.front());
  config.layers.push_back(config.layers.front());
  return config;
}

class SelfTest : public testing::TestWithParam<Target> {
 protected:
  SelfTest() { ::setenv("XDG_CACHE_HOME", folder_.path().c_str(), 1); }
  ~SelfTest() override { ::unsetenv("XDG_CACHE_HOME"); }

  Index files() const {
    const std::string results = folder_ / "sambalm";
    if (!is_folder(results)) return 0;
    const std::filesystem::directory_iterator begin(results);
    return std::distance(begin, std::filesystem::directory_iterator());
  }

  TemporaryFolder folder_;
};

std::vector<Target> gpu_and_processor() {
  return {
      {best_tier(), DType::f32}, {best_tier(), DType::f32, true}, {best_tier(), DType::bf16, true}};
}
INSTANTIATE_TEST_SUITE_P(Targets, SelfTest, testing::ValuesIn(gpu_and_processor()), name_of_target);

TEST_P(SelfTest, PassesOnceForEachModelOnAGpuAlone) {
  SAMBA_SKIP_WITHOUT_GPU(GetParam());
  Stream stream = GetParam().stream();
  const ModelConfig config = every_layer();
  const Index once = GetParam().cuda ? 1 : 0;
  for (const int again : {0, 1}) {
    SCOPED_TRACE(again);
    self_test(config, stream, GetParam().dtype, false);
    EXPECT_EQ(files(), once);
  }
  EXPECT_FALSE(stream.compares_ops());
  self_test(config, stream, GetParam().dtype, true);
  EXPECT_EQ(files(), 2 * once);
}

}  // namespace
}  // namespace samba::test
