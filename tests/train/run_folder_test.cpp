#include "train/run_folder.h"

#include <filesystem>
#include <set>

#include "model/folder.h"
#include "support/shared.h"
#include "train/tiny_run.h"

namespace samba::test {
namespace {

namespace fs = std::filesystem;

class Runs : public testing::Test {
 protected:
  TemporaryFolder folder_;
  const std::string data_ = write_packed(folder_ / "data", repeated_words(100, 17, 4, 1));
  const std::string path_ = folder_ / "run";

  void SetUp() override { make_folder(path_); }

  static TrainConfig config() {
    TrainConfig c;
    c.steps = 20;
    c.batch = 2;
    c.length = 16;
    return c;
  }
  std::set<std::string> names() const {
    std::set<std::string> all;
    for (const auto& entry : fs::directory_iterator(path_)) all.insert(entry.path().filename());
    return all;
  }
  Json last() const { return read_json(path_ + "/last.json"); }

  using Names = std::set<std::string>;
};

TEST_F(Runs, KeepTheLastOnesAndTheBest) {
  TinyRun run(data_, config());
  RunFolder folder(path_, 2);
  EXPECT_FALSE(folder.has_checkpoint());
  const std::optional<double> losses[] = {3.0, 1.0, 2.0, {}, 1.0};
  for (const auto& loss : losses) {
    run.steps(1);
    folder.save(*run.trainer, Json::object(), nullptr, loss);
  }
  EXPECT_EQ(names(), (Names{"last.json", "step-00000002", "step-00000004", "step-00000005"}));
  EXPECT_EQ(last(),
            (Json{{"last", "step-00000005"}, {"best", "step-00000002"}, {"best_loss", 1.0}}));
  EXPECT_TRUE(folder.has_checkpoint());
  EXPECT_EQ(folder.last(), path_ + "/step-00000005");
  // A better one takes the best one's place, which is then like any other.
  run.steps(1);
  folder.save(*run.trainer, Json::object(), nullptr, 0.5);
  EXPECT_EQ(names(), (Names{"last.json", "step-00000005", "step-00000006"}));
  EXPECT_EQ(last()["best"], "step-00000006");
}

TEST_F(Runs, KeepTheNewestAlsoBesideOnesOfLaterSteps) {
  TinyRun run(data_, config());
  RunFolder folder(path_, 1);
  run.steps(1);
  folder.save(*run.trainer, Json::object(), nullptr, {});
  fs::copy(folder.last(), path_ + "/step-00000009");  // not in last.json: it was never finished
  run.steps(1);
  folder.save(*run.trainer, Json::object(), nullptr, {});
  EXPECT_EQ(folder.last(), path_ + "/step-00000002");
  EXPECT_TRUE(fs::exists(folder.last() + "/model.safetensors"));
}

TEST_F(Runs, ACheckpointIsAModelFolder) {
  TinyRun run(data_, config());
  run.steps(2);
  const Tokenizer tokenizer(test_file("tokenizer/small.model"));
  RunFolder(path_, 1).save(*run.trainer, {{"lr", 0.5}}, &tokenizer, {});
  const ModelSource source = open_model(path_);
  EXPECT_EQ(source.folder, path_ + "/step-00000002");
  EXPECT_EQ(Tokenizer(source.folder).hash(), tokenizer.hash());
  EXPECT_EQ(read_json(source.folder + "/config.json")["train"], (Json{{"lr", 0.5}}));
  EXPECT_EQ(json_of(source.layout.config), json_of(run.model.config()));
  const auto model = load_model(source, run.stream, DType::f32, false);
  for (std::size_t i = 0; i < model->parameters().size(); ++i)
    expect_same(host(model->parameters()[i].value), host(run.model.parameters()[i].value));
  const Json state = read_json(source.folder + "/trainer.json");
  EXPECT_EQ(state["step"], 2);
  EXPECT_EQ(state["tokens"], 2 * 2 * 16);
}

TEST_F(Runs, KeepTheMastersOfABf16Model) {
  TinyRun run(data_, config(), DType::bf16);
  run.steps(2);
  RunFolder(path_, 1).save(*run.trainer, Json::object(), nullptr, {});
  const auto model = load_model(open_model(path_), run.stream, DType::f32, false);
  for (std::size_t i = 0; i < model->parameters().size(); ++i)
    expect_same(host(model->parameters()[i].value),
                host(run.trainer->optimizer().slots()[i].weights()));
}

TEST_F(Runs, CleanAwayWhatAKilledRunLeft) {
  TinyRun run(data_, config());
  run.steps(1);
  const RunFolder folder(path_, 1);
  RunFolder(path_, 1).save(*run.trainer, Json::object(), nullptr, {});
  make_folder(path_ + "/step-00000002.partial/inner");
  write_text(path_ + "/step-00000002.partial/model.safetensors", "half");
  EXPECT_EQ(folder.last(), path_ + "/step-00000001");
  folder.clean();
  EXPECT_EQ(names(), (Names{"last.json", "step-00000001"}));
}

TEST_F(Runs, WriteAStepAnew) {
  TinyRun run(data_, config());
  run.steps(1);
  RunFolder folder(path_, 3);
  make_folder(path_ + "/step-00000001.partial");
  for (int twice = 0; twice < 2; ++twice) folder.save(*run.trainer, Json::object(), nullptr, {});
  EXPECT_EQ(names(), (Names{"last.json", "step-00000001"}));
  EXPECT_EQ(error_of([&] { load_checkpoint(folder.last(), *run.trainer); }), "");
}

TEST_F(Runs, RefuseALastThatIsDamagedByItsName) {
  TinyRun run(data_, config());
  run.steps(1);
  RunFolder folder(path_, 1);
  folder.save(*run.trainer, Json::object(), nullptr, {});
  for (const char* damaged :
       {"", "[]", "{}", R"({"last": 3})", R"({"last": "a", "best": 3})",
        R"({"last": "a", "best": "b"})", R"({"last": "a", "best": "b", "best_loss": "low"})"}) {
    write_text(path_ + "/last.json", damaged);
    EXPECT_NE(error_of([&] { folder.last(); }).find("last.json"), std::string::npos) << damaged;
    EXPECT_NE(
        error_of([&] { folder.save(*run.trainer, Json::object(), nullptr, {}); }).find("last.json"),
        std::string::npos)
        << damaged;
  }
}

TEST_F(Runs, RefuseDamagedCheckpointsByTheirFile) {
  TinyRun run(data_, config());
  run.steps(1);
  RunFolder folder(path_, 1);
  folder.save(*run.trainer, Json::object(), nullptr, {});
  const std::string at = folder.last();
  for (const char* name : {"/optimizer.safetensors", "/model.safetensors", "/trainer.json"}) {
    const std::string file = at + name, whole = read_bytes(file);
    for (const std::string& damaged :
         {whole.substr(0, whole.size() - 1), whole.substr(0, whole.size() / 2), std::string()}) {
      write_bytes(file, damaged);
      const std::string message = error_of([&] { load_checkpoint(at, *run.trainer); });
      // JSON that lost its line break is whole.
      if (std::string(name) == "/trainer.json" && damaged.size() + 1 == whole.size()) continue;
      EXPECT_NE(message.find(file), std::string::npos) << message;
    }
    fs::remove(file);
    EXPECT_NE(error_of([&] { load_checkpoint(at, *run.trainer); }).find(file), std::string::npos);
    write_bytes(file, whole);
  }
  EXPECT_EQ(error_of([&] { load_checkpoint(at, *run.trainer); }), "");
}

TEST_F(Runs, RefuseCheckpointsOfOtherModels) {
  TinyRun run(data_, config());
  RunFolder folder(path_, 1);
  folder.save(*run.trainer, Json::object(), nullptr, {});
  ModelConfig narrow = TinyRun::model_config(12), deeper = TinyRun::model_config(),
              shallow = TinyRun::model_config();
  deeper.layers.push_back(deeper.layers[1]);
  shallow.layers.pop_back();
  for (const ModelConfig& other : {narrow, deeper, shallow}) {
    TinyRun wrong(data_, config(), DType::f32, 1, Stream(2), other);
    const std::string message = error_of([&] { load_checkpoint(folder.last(), *wrong.trainer); });
    EXPECT_NE(message.find(folder.last() + "/model.safetensors"), std::string::npos) << message;
  }
}

TEST_F(Runs, RefuseToKeepNothing) {
  EXPECT_NE(error_of([&] { RunFolder(path_, 0); }).find("keep: expected at least 1"),
            std::string::npos);
}

}  // namespace
}  // namespace samba::test
