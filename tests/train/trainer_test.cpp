#include "train/trainer.h"

#include <cmath>
#include <functional>
#include <limits>
#include <numbers>

#include "support/target.h"
#include "train/run_folder.h"
#include "train/tiny_run.h"

namespace samba::test {
namespace {

class Training : public testing::Test {
 protected:
  static constexpr Index kLength = 32;

  TemporaryFolder folder_;
  const std::string data_ = write_packed(folder_ / "data", documents());

  /// Text whose documents are of many lengths, 1 among them.
  static std::vector<std::int32_t> documents() {
    const Rng rng{5, 0};
    std::vector<std::int32_t> ids;
    for (std::uint64_t i = 0; ids.size() < 200 * (kLength + 1); ++i)
      ids.push_back(rng.below(9, i) == 0 ? 2
                                         : static_cast<std::int32_t>(rng.below(64, i + 1'000'000)));
    return ids;
  }

  static TrainConfig config(Index steps = 6, Index micro_batch = 0) {
    TrainConfig c;
    c.steps = steps;
    c.batch = 4;
    c.micro_batch = micro_batch;
    c.length = kLength;
    c.lr = 3e-3;
    return c;
  }
};

TEST_F(Training, LearnsToCopy) {
  // Eight letters: ln 8 nats for each of the 3 targets that nothing foretells, spread over 32, are
  // 0.195. Nothing can do better, and no more than a quarter is forgiven.
  const std::string words =
      write_packed(folder_ / "words", repeated_words(4000, kLength + 1, 4, 3));
  TrainConfig c = config(250);
  c.batch = 16;
  c.lr = 1e-2;
  ModelConfig model = TinyRun::model_config(32);
  model.layers[2]["heads"] = 4;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    TinyRun run(words, c, dtype, 1, Stream(2), model);
    const double first = run.steps(1);
    EXPECT_NEAR(first, std::log(64), 0.5) << "a new model knows nothing";
    EXPECT_LT(run.steps(249), 0.25) << name_of(dtype);
  }
}

TEST_F(Training, AResumedRunEqualsAnUnbrokenOne) {
  struct Case {
    DType dtype;
    Index micro_batch;
    bool reset_documents;
  };
  const Case cases[] = {{DType::f32, 0, false},  {DType::f32, 2, true},  {DType::bf16, 0, false},
                        {DType::bf16, 1, false}, {DType::bf16, 2, true}, {DType::f64, 2, true}};
  int number = 0;
  for (const Case& wanted : cases) {
    SCOPED_TRACE(
        text_of(name_of(wanted.dtype), " ", wanted.micro_batch, " ", wanted.reset_documents));
    TrainConfig c = config(6, wanted.micro_batch);
    c.reset_documents = wanted.reset_documents;
    const std::string place = folder_ / ("run" + std::to_string(number++));
    make_folder(place + "-unbroken");
    make_folder(place);
    RunFolder unbroken(place + "-unbroken", 1), resumed(place, 1);
    TinyRun whole(data_, c, wanted.dtype);
    whole.steps(6);
    unbroken.save(*whole.trainer, Json::object(), nullptr, {});
    {
      TinyRun first(data_, c, wanted.dtype);
      first.steps(3);
      resumed.save(*first.trainer, Json::object(), nullptr, {});
    }
    TinyRun second(data_, c, wanted.dtype, 2);  // another seed: nothing may be left of its weights
    load_checkpoint(resumed.last(), *second.trainer);
    EXPECT_EQ(second.trainer->steps_done(), 3);
    second.steps(3);
    resumed.save(*second.trainer, Json::object(), nullptr, {});
    for (const char* file : {"/model.safetensors", "/optimizer.safetensors", "/config.json"})
      EXPECT_TRUE(read_bytes(resumed.last() + file) == read_bytes(unbroken.last() + file)) << file;
    expect_same(host(second.model.parameters().front().value),
                host(whole.model.parameters().front().value));
  }
}

TEST_F(Training, RecomputingTrainsTheSameWeights) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    TrainConfig c = config(), again = config();
    again.recompute = true;
    TinyRun kept(data_, c, dtype), recomputed(data_, again, dtype);
    EXPECT_EQ(kept.steps(3), recomputed.steps(3));
    expect_same(kept.weights(), recomputed.weights());
  }
}

TEST_F(Training, MicroBatchesChangeNothingButTheOrderOfSums) {
  TinyRun whole(data_, config(6, 4), DType::f64, 1, Stream(2, Tier::plain));
  const Trainer::Report expected = whole.trainer->step();
  const Host norm = host(whole.model.parameters().back().grad);
  for (const Index micro : {1, 2}) {
    TinyRun parts(data_, config(6, micro), DType::f64, 1, Stream(2, Tier::plain));
    const Trainer::Report report = parts.trainer->step();
    EXPECT_NEAR(report.loss, expected.loss, 1e-12);
    EXPECT_NEAR(report.gradient_norm, expected.gradient_norm, 1e-12 * expected.gradient_norm);
    EXPECT_EQ(report.tokens, 4 * kLength);
    EXPECT_DOUBLE_EQ(report.flops, expected.flops);
    expect_close(host(parts.model.parameters().back().grad), norm, DType::f64, 4 * kLength * 64);
    for (Index step = 0; step < 6; ++step)
      EXPECT_EQ(parts.trainer->lr_after(step), whole.trainer->lr_after(step));
  }
}

TEST_F(Training, ResettingAtDocumentsTrainsOnThemApart) {
  TrainConfig c = config();
  c.reset_documents = true;
  TinyRun together(data_, config(), DType::f64, 1, Stream(2, Tier::plain));
  TinyRun apart(data_, c, DType::f64, 1, Stream(2, Tier::plain));
  const double reset = apart.trainer->step().loss;
  EXPECT_NE(reset, together.trainer->step().loss);

  // The same by hand: a model's loss over each document of the step's windows.
  SmallModel model(TinyRun::model_config(), Target{Tier::plain, DType::f64}, false);
  initialise(model.model(), 1);
  double sum = 0;
  for (std::uint64_t i = 0; i < 4; ++i) {
    std::vector<std::int32_t> ids(kLength + 1);
    apart.data->read(i, ids);
    for (Index first = 0; first < kLength;) {
      Index end = first;
      while (end < kLength && ids[static_cast<std::size_t>(end)] != 2) ++end;
      end = std::min(end + 1, kLength);
      sum += model.loss({ids.begin() + first, ids.begin() + end},
                        {ids.begin() + first + 1, ids.begin() + end + 1}, {{0, end - first, 0}});
      first = end;
    }
  }
  EXPECT_NEAR(reset, sum / (4 * kLength), 1e-12);
}

TEST_F(Training, ARehearsalTellsTheMemoryOfARun) {
  // What the processor's kernels take for themselves serves every layer, so that it drops out of
  // the difference that more layers make.
  for (const bool recompute : {false, true}) {
    TrainConfig c = config();
    c.recompute = recompute;
    std::size_t told = 0, held = 0;
    for (const int times : {1, 3}) {
      ModelConfig model = TinyRun::model_config();
      const std::vector<Json> layers = model.layers;
      for (int i = 1; i < times; ++i)
        model.layers.insert(model.layers.end(), layers.begin(), layers.end());
      TinyRun run(data_, c, DType::bf16, 1, Stream(2), model);
      run.steps(2);
      const std::size_t held_now = run.stream.pool()->held();
      const TrainingMemory memory =
          training_memory(model, run.stream, DType::bf16, run.trainer->config());
      EXPECT_EQ(run.stream.pool()->held(), held_now) << "a rehearsal takes nothing";
      EXPECT_LT(memory.all(), held_now);
      EXPECT_GT(memory.passes, memory.model);
      if (times > 1) {
        EXPECT_EQ(memory.all() - told, held_now - held);
      }
      told = memory.all();
      held = held_now;
    }
  }
}

TEST_F(Training, ARehearsalTellsTheMemoryOfAGpuToTheByte) {
  if (cuda_devices() == 0) GTEST_SKIP() << "no NVIDIA GPU on this machine";
  for (const DType dtype : {DType::f32, DType::bf16}) {
    TinyRun run(data_, config(), dtype, 1, Stream(CpuStream(2), 0));
    run.stream.pool()->clear();  // what drawing the weights took
    run.steps(2);
    const std::size_t held = run.stream.pool()->held();
    EXPECT_EQ(training_memory(run.model.config(), run.stream, dtype, run.trainer->config()).all(),
              held);
  }
}

TEST_F(Training, TheRateRisesThenFallsOverTokens) {
  TrainConfig c = config(1000);
  c.lr = 1;
  c.warmup = 0.1;
  const TinyRun run(data_, c);
  const Trainer& t = *run.trainer;
  EXPECT_DOUBLE_EQ(t.lr_after(0), 0.01) << "no step is lost at rate 0";
  EXPECT_DOUBLE_EQ(t.lr_after(49), 0.5);
  EXPECT_DOUBLE_EQ(t.lr_after(99), 1);
  EXPECT_DOUBLE_EQ(t.lr_after(549), 0.55);
  EXPECT_DOUBLE_EQ(t.lr_after(999), 0.1) << "a tenth at the end";
  for (Index step = 100; step < 999; ++step) EXPECT_LT(t.lr_after(step), t.lr_after(step - 1));
}

TEST_F(Training, ThePapersScheduleCountsPasses) {
  TrainConfig c = config(954, 1);
  c.lr = 4e-4;
  c.schedule = "paper";
  const TinyRun run(data_, c);
  // Paper, appendix and code: the rate of pass `it` of M, warm-up W. A step of 4 passes takes the
  // rate of its last one.
  const double most = 954 * 4, warmup = std::floor(0.01 * most), least = 4e-5;
  for (Index step = 0; step < 954; ++step) {
    const double it = static_cast<double>(step * 4 + 3);
    const double expected =
        it < warmup
            ? 4e-4 * it / warmup
            : least + 0.5 * (1 + std::cos(std::numbers::pi * (it - warmup) / (most - warmup))) *
                          (4e-4 - least);
    ASSERT_NEAR(run.trainer->lr_after(step), expected, 1e-12 * c.lr) << step;
  }
}

TEST_F(Training, DecayTakesMatricesOrAll) {
  TrainConfig c = config();
  for (const char* policy : {"matrices", "all"}) {
    c.optimizer.decay = policy;
    TinyRun run(data_, c);
    const std::vector<Host> before = run.weights();
    run.model.zero_gradients();
    run.trainer->optimizer().step(0.5, 0, {}, 1);
    const std::vector<Host> after = run.weights();
    for (std::size_t i = 0; i < before.size(); ++i) {
      const Parameter& p = run.model.parameters()[i];
      const bool vector = p.name.ends_with("norm.weight") || p.name.ends_with("bias") ||
                          p.name.ends_with(".a_log") || p.name.ends_with(".d") ||
                          p.name.ends_with("conv.weight");
      SCOPED_TRACE(text_of(policy, " ", p.name));
      Host expected = before[i];
      if (!vector || std::string(policy) == "all")
        for (double& w : expected.values) w *= 1 - 0.5 * 0.1;
      expect_close(after[i], expected, DType::f32, 1);
    }
  }
  c.optimizer.decay = "some";
  EXPECT_NE(error_of([&] { TinyRun(data_, c); }).find("decay: expected matrices or all"),
            std::string::npos);
}

TEST_F(Training, ClippingScalesTheGradientsToTheirNorm) {
  TinyRun run(data_, config());
  double squares = 0;
  int seed = 1;
  for (Parameter& p : run.model.parameters()) {
    const Host g = random(p.rows, p.cols, DType::f32, seed++);
    copy(p.grad, View{reinterpret_cast<std::byte*>(const_cast<double*>(g.values.data())), p.rows,
                      p.cols, p.cols, DType::f64});
    for (const double value : g.values) squares += value * value;
  }
  Optimizer& optimizer = run.trainer->optimizer();
  const Matrix sum(run.stream, DType::f64, 1, 1);
  fill(sum, 0);
  optimizer.add_squares(sum);
  const double norm = std::sqrt(*sum.row<double>(0));
  EXPECT_NEAR(norm, std::sqrt(squares), 1e-6 * norm);
  const auto first_moment = [&](double clip) {
    for (Optimizer::Slot& slot : optimizer.slots()) fill(slot.m, 0);
    optimizer.step(0, clip, sum, 1);
    return host(optimizer.slots()[0].m);
  };
  Host expected = host(run.model.parameters()[0].grad);
  for (double& value : expected.values) value *= 1 - 0.9;
  expect_close(first_moment(0), expected, DType::f32, 1);
  expect_close(first_moment(norm * 1.01), expected, DType::f32, 1);
  for (double& value : expected.values) value *= 0.25 / norm;
  expect_close(first_moment(0.25), expected, DType::f32, 4);
}

TEST_F(Training, StopsAtTheFirstNumberThatIsNone) {
  TinyRun run(data_, config());
  run.steps(2);
  Parameter& bad = run.model.parameters()[3];
  const double good = host(bad.value)(0, 0);
  fill(bad.value.view().block(0, 1).columns(0, 1), std::numeric_limits<double>::quiet_NaN());
  const std::vector<Host> before = run.weights();
  const std::string message = error_of([&] { run.steps(1); });
  EXPECT_NE(message.find("step 3"), std::string::npos) << message;
  EXPECT_NE(message.find(bad.name + " (weight)"), std::string::npos) << message;
  EXPECT_EQ(run.trainer->steps_done(), 2);
  expect_same(run.weights(), before);
  fill(bad.value.view().block(0, 1).columns(0, 1), good);
  EXPECT_TRUE(std::isfinite(run.steps(1)));
}

class TrainingOn : public Training, public testing::WithParamInterface<Target> {};
INSTANTIATE_TEST_SUITE_P(Tiers, TrainingOn, testing::ValuesIn(targets()), name_of_target);

TEST_P(TrainingOn, StepsAsInFloat64AndStopsAtNoNumber) {
  SAMBA_SKIP_WITHOUT_GPU(GetParam());
  const DType dtype = GetParam().dtype;
  // What `verify` allows a loss and gradients of these types.
  const double of_loss = dtype == DType::bf16 ? 3e-2 : 2e-4;
  const double of_norm = dtype == DType::bf16 ? 6e-2 : 1e-3;
  TinyRun exact(data_, config(6, 2), DType::f64, 1, Stream(2, Tier::plain));
  TinyRun run(data_, config(6, 2), dtype, 1, GetParam().stream());
  for (Index step = 0; step < 3; ++step) {
    const Trainer::Report expected = exact.trainer->step(), found = run.trainer->step();
    EXPECT_NEAR(found.loss, expected.loss, of_loss * expected.loss);
    EXPECT_NEAR(found.gradient_norm, expected.gradient_norm, of_norm * expected.gradient_norm);
  }
  Parameter& bad = run.model.parameters()[3];
  fill(bad.value.view().block(0, 1).columns(0, 1), std::numeric_limits<double>::quiet_NaN());
  const std::vector<Host> before = run.weights();
  const std::string message = error_of([&] { run.steps(1); });
  EXPECT_NE(message.find(bad.name + " (weight)"), std::string::npos) << message;
  EXPECT_EQ(run.trainer->steps_done(), 3);
  expect_same(run.weights(), before);
}

TEST_F(Training, CompletesItsConfig) {
  TrainConfig c;
  c.steps = 10;
  complete(c, TinyRun::model_config());
  EXPECT_EQ(c.length, 64);
  EXPECT_EQ(c.micro_batch, c.batch);
  EXPECT_DOUBLE_EQ(c.min_lr, c.lr / 10);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::pair<const char*, std::function<void(TrainConfig&)>> wrong[] = {
      {"steps: expected at least 1", [](TrainConfig& x) { x.steps = 0; }},
      {"batch: expected 1 to", [](TrainConfig& x) { x.batch = 0; }},
      {"length: expected 1 to", [](TrainConfig& x) { x.length = -1; }},
      {"micro_batch: expected a divisor", [](TrainConfig& x) { x.micro_batch = 3; }},
      {"micro_batch: expected a divisor", [](TrainConfig& x) { x.micro_batch = 8; }},
      {"micro_batch: expected a divisor", [](TrainConfig& x) { x.micro_batch = -1; }},
      {"lr: expected 0 or more", [](TrainConfig& x) { x.lr = -1; }},
      {"lr: expected 0 or more", [&](TrainConfig& x) { x.lr = nan; }},
      {"min_lr: expected at most lr", [](TrainConfig& x) { x.min_lr = 1; }},
      {"warmup: expected 0 or more", [](TrainConfig& x) { x.warmup = 1; }},
      {"clip: expected 0 or more", [](TrainConfig& x) { x.clip = -1; }},
      {"schedule: expected tokens", [](TrainConfig& x) { x.schedule = "x"; }},
      {"order: expected shuffled", [](TrainConfig& x) { x.order = "x"; }},
      {"beta1: expected 0 or more", [](TrainConfig& x) { x.optimizer.beta1 = 1; }},
      {"beta2: expected 0 or more", [](TrainConfig& x) { x.optimizer.beta2 = -0.1; }},
      {"eps: expected more than 0", [](TrainConfig& x) { x.optimizer.eps = 0; }},
      {"weight_decay: expected 0 or more", [&](TrainConfig& x) { x.optimizer.weight_decay = nan; }},
  };
  for (const auto& [message, change] : wrong) {
    TrainConfig x = config();
    change(x);
    const std::string found = error_of([&] { complete(x, TinyRun::model_config()); });
    EXPECT_NE(found.find(text_of("train: ", message)), std::string::npos) << found;
  }
}

}  // namespace
}  // namespace samba::test
