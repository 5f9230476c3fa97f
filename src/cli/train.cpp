#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iostream>

#include "cli/command.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "core/error.h"
#include "core/fields.h"
#include "core/files.h"
#include "core/progress.h"
#include "kernels/probe.h"
#include "model/folder.h"
#include "text/tokenizer.h"
#include "train/log.h"
#include "train/run_folder.h"
#include "train/validation.h"

namespace samba {
namespace {

struct Options {
  Common common;
  TrainConfig train;
  std::vector<std::string> data;
  std::string out;
  bool resume = false;
  Index validate_every = 0;
  Index validate_sequences = 16;
  std::vector<Index> validate_lengths;
  Index save_every = 0;
  Index keep = 2;

  void fields(auto& f) {
    f("data", data, "folder that `prepare` wrote; FOLDER:WEIGHT to mix, repeated");
    f("out", out, "folder of the run: checkpoints and logs");
    f("resume", resume, "go on from the run's last checkpoint");
    f("validate_every", validate_every, "steps between validations; 0: at the end only");
    f("validate_sequences", validate_sequences,
      "sequences of a validation, each of the longest length");
    f("validate_lengths", validate_lengths,
      "context lengths; default: 1, 2 and 4 times the training length");
    f("save_every", save_every, "steps between checkpoints; 0: at the end only");
    f("keep", keep, "checkpoints that stay, beside the best");
    train.fields(f);
    common.fields(f);
  }
};

constexpr const char* kUsage =
    "sambalm train MODEL --data FOLDER --out RUN\n\n"
    "Trains a model. MODEL is a preset or a configuration file (new weights), or a model folder\n"
    "(its weights are trained on). Ctrl-C saves a checkpoint and stops; --resume goes on from it "
    "and\n"
    "repeats what an unbroken run would have computed, bit for bit.";

/// Options from the recipe that comes with the model or the run, then from the command line.
Options resolve(const std::vector<std::string>& all, std::vector<std::string>& words, bool& go_on) {
  Options first;
  words = all;
  go_on = parse(first, words, kUsage, 1, 1);
  Options options;
  if (!go_on) return options;
  if (first.out.empty()) throw UsageError("expected --out RUN");
  const RunFolder folder(first.out, 1);
  Json recipe = Json::object();
  std::string place;
  if (first.resume && folder.has_checkpoint()) {
    place = folder.last() + "/config.json";
    recipe = read_json(place);
  } else {
    if (!is_folder(words[0])) recipe = config_document(words[0]);
    place = words[0];
  }
  if (recipe.contains("train")) read_fields(options, recipe["train"], place + ": train");
  options.common.json.clear();
  options.common.quiet = false;
  words = all;
  parse(options, words, kUsage, 1, 1);
  return options;
}

DataOptions data_options(const Options& options) {
  DataOptions data;
  for (const std::string& text : options.data) {
    data.sources.push_back(parse_data_source(text));
    data.sources.back().folder = find_split(data.sources.back().folder, "train");
  }
  if (data.sources.empty()) throw UsageError("expected --data FOLDER");
  data.length = options.train.length + 1;
  data.seed = static_cast<std::uint64_t>(options.common.seed);
  data.order = options.train.order == "paper" ? DataOrder::paper : DataOrder::shuffled;
  return data;
}

/// One command's run: what must stay alive while it trains.
class Run {
 public:
  Run(const Options& options, const std::string& model_name)
      : options_(options),
        folder_(options.out, options.keep),
        stream_(options.common.stream()),
        source_(open_model(resuming() ? folder_.last() : model_name)) {
    complete(options_.train, source_.layout.config);
    open_data();
    expect_memory();
    model_ = allocate_model(source_, stream_, options_.common.element_type(), true);
    trainer_.emplace(*model_, *data_, options_.train, data_->sources()[0].meta().eos);
    if (resuming())
      load_checkpoint(folder_.last(), *trainer_);
    else
      trainer_->optimizer().start([&](const Destination& destination) {
        read_weights(source_, *model_, static_cast<std::uint64_t>(options_.common.seed),
                     destination);
      });
    watch_interrupts();
    make_folder(options_.out);
    folder_.clean();
    log_.emplace(TrainingLog::Options{.folder = options_.out,
                                      .training_length = options_.train.length,
                                      .resumed_step = resuming() ? trainer_->steps_done() : -1});
    ceiling_ = gemm_flops(stream_, model_->dtype());
    stream_.pool()->clear();
  }

  int train() {
    using Clock = std::chrono::steady_clock;
    const TrainConfig& config = options_.train;
    const double step_tokens = static_cast<double>(config.batch * config.length);
    announce();
    Progress progress({.label = "train",
                       .unit = "tokens",
                       .total = static_cast<double>(config.steps) * step_tokens,
                       .done = static_cast<double>(trainer_->tokens_done()),
                       .quiet = options_.common.quiet,
                       .always_finish = true});
    while (trainer_->steps_done() < config.steps && !interrupted()) {
      const auto start = Clock::now();
      const Trainer::Report report = step();
      const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
      const Index done = trainer_->steps_done();
      const double share = report.flops / seconds / ceiling_;
      log_->step({.step = done,
                  .tokens = trainer_->tokens_done(),
                  .loss = report.loss,
                  .learning_rate = report.lr,
                  .gradient_norm = report.gradient_norm,
                  .tokens_per_second = static_cast<double>(report.tokens) / seconds,
                  .flops_share = share});
      char extra[96];
      std::snprintf(extra, sizeof(extra), "loss %.3f  %s FLOP/s (%.0f%% of GEMM)", report.loss,
                    human_count(report.flops / seconds).c_str(), 100 * share);
      progress.update(static_cast<double>(trainer_->tokens_done()), extra);
      const bool last = done == config.steps;
      if (last || due(options_.validate_every)) validate_now(progress);
      if (last || due(options_.save_every) || interrupted()) save();
    }
    progress.finish();
    if (options_.common.json != "-")
      std::cout << "checkpoint: " << (folder_.has_checkpoint() ? folder_.last() : "none") << '\n';
    options_.common.write_result({{"steps", trainer_->steps_done()},
                                  {"tokens", trainer_->tokens_done()},
                                  {"checkpoint", folder_.has_checkpoint() ? folder_.last() : ""}});
    return interrupted() && trainer_->steps_done() < config.steps ? 130 : 0;
  }

 private:
  bool resuming() const { return options_.resume && folder_.has_checkpoint(); }
  bool due(Index every) const { return every > 0 && trainer_->steps_done() % every == 0; }

  void open_data() {
    data_.emplace(data_options(options_));
    const PackedMeta& meta = data_->sources()[0].meta();
    data_->expect_tokenizer(meta.tokenizer_hash);
    const std::string own = find_tokenizer(source_.folder);
    tokenizer_.emplace(own.empty() ? data_->sources()[0].folder() : own);
    data_->expect_tokenizer(tokenizer_->hash());
    if (meta.vocabulary > source_.layout.config.vocab)
      fail(data_->sources()[0].folder(), ": its tokenizer has ", meta.vocabulary,
           " pieces; the model's vocabulary is ", source_.layout.config.vocab);
    const std::string root = parse_data_source(options_.data[0]).folder;
    const std::string held_out = find_split(root, "validation");
    if (held_out == root) return;
    choose_lengths(read_packed_meta(held_out));
    validation_.emplace(held_out, options_.validate_lengths.back() + 1);
    validation_->expect_tokenizer(meta.tokenizer_hash);
  }

  /// Refuses what is not free of the memory that the run will hold on its device.
  void expect_memory() {
    const DType dtype = options_.common.element_type();
    const auto memory_of = [&](const TrainConfig& config) {
      return training_memory(source_.layout.config, stream_, dtype, config);
    };
    const auto text = [](std::size_t bytes) { return human_bytes(static_cast<double>(bytes)); };
    const TrainingMemory memory = memory_of(options_.train);
    const std::size_t free = stream_.free_memory();
    if (memory.all() <= free) {
      memory_ = text_of(stream_.cuda() == nullptr ? "at least " : "", text(memory.all()), " of ",
                        text(free), " free: ", text(memory.model), " weights and gradients, ",
                        text(memory.optimizer), " optimizer, ", text(memory.passes), " passes of ",
                        options_.train.micro_batch, " x ", options_.train.length, " tokens");
      return;
    }
    // The mildest way to less: smaller passes cost little, computing twice a third of the time.
    TrainConfig less = options_.train;
    std::string words;
    for (;;) {
      if (less.micro_batch > 1) {
        do --less.micro_batch;
        while (less.batch % less.micro_batch != 0);
        words = text_of("--micro-batch ", less.micro_batch);
      } else if (!less.recompute) {
        less.recompute = true;
      } else {
        break;
      }
      if (memory_of(less).all() <= free) break;
    }
    const std::size_t least = memory_of(less).all();
    if (less.recompute && !options_.train.recompute)
      words += words.empty() ? "--recompute" : " --recompute";
    fail("train: ", text(memory.all()), " of memory are needed and ", text(free), " are free on ",
         stream_.device(), "; ",
         words.empty()   ? "nothing makes it less but a shorter --length or a smaller model"
         : least <= free ? text_of(words, " needs ", text(least))
                         : text_of("even ", words, " needs ", text(least),
                                   ": a shorter --length or a smaller model needs less"));
  }

  /// Those asked for, or as many multiples of the training length as the held-out files have.
  void choose_lengths(const PackedMeta& held_out) {
    std::vector<Index>& lengths = options_.validate_lengths;
    for (const Index length : lengths) expect_size("train", "validate-lengths", length);
    expect_size("train", "validate-sequences", options_.validate_sequences);
    std::sort(lengths.begin(), lengths.end());
    if (!lengths.empty()) return;
    Index longest = 0;
    for (const auto& file : held_out.files) longest = std::max(longest, file.tokens);
    for (const Index times : {1, 2, 4})
      if (times == 1 || times * options_.train.length < longest)
        lengths.push_back(times * options_.train.length);
  }

  void announce() {
    if (options_.common.quiet) return;
    std::cerr << model_->config().name << ": "
              << human_count(static_cast<double>(model_->parameter_count())) << " parameters, "
              << options_.train.steps << " steps of " << options_.train.batch << " x "
              << options_.train.length << " tokens, " << name_of(model_->dtype()) << ", "
              << stream_.threads() << " threads, " << name_of(stream_.tier())
              << "\nmemory: " << memory_ << '\n';
    if (!resuming()) return;
    std::cerr << "resumed from step " << trainer_->steps_done();
    const Json state = read_json(folder_.last() + "/trainer.json");
    if (state.value("threads", Index{0}) != stream_.threads())
      std::cerr << "; it was written with " << state.value("threads", Index{0})
                << " threads, so the bits that follow differ from an unbroken run's";
    std::cerr << '\n';
  }

  Trainer::Report step() {
    try {
      return trainer_->step();
    } catch (const Error& error) {
      fail(error.what(),
           "; last good checkpoint: ", folder_.has_checkpoint() ? folder_.last() : "none");
    }
  }

  void validate_now(Progress& progress) {
    if (!validation_) return;
    const std::vector<LengthLoss> losses =
        validate(*model_, *validation_, options_.validate_lengths, options_.validate_sequences);
    log_->validation(
        {.step = trainer_->steps_done(), .tokens = trainer_->tokens_done(), .losses = losses});
    validation_loss_ = losses.front().loss;
    std::string line = text_of("step ", trainer_->steps_done(), ": validation loss");
    for (const LengthLoss& l : losses) {
      char text[48];
      std::snprintf(text, sizeof(text), "  %lld: %.4f", static_cast<long long>(l.length), l.loss);
      line += text;
    }
    progress.say(line);
  }

  void save() {
    folder_.save(*trainer_, write_fields(options_), &*tokenizer_, validation_loss_);
    validation_loss_.reset();
  }

  Options options_;
  RunFolder folder_;
  Stream stream_;
  ModelSource source_;
  std::unique_ptr<Model> model_;
  std::optional<TokenStream> data_;
  std::optional<TokenWindows> validation_;
  std::optional<Trainer> trainer_;
  std::optional<TrainingLog> log_;
  std::optional<Tokenizer> tokenizer_;
  std::string memory_;  ///< what it will hold, in words
  double ceiling_ = 0;  ///< FLOP/s of a large matrix product, measured at the start
  std::optional<double> validation_loss_;  ///< since the last checkpoint
};

}  // namespace

int run_train(const std::vector<std::string>& all) {
  std::vector<std::string> words;
  bool go_on = true;
  const Options options = resolve(all, words, go_on);
  if (!go_on) return 0;
  if (!options.resume && RunFolder(options.out, 1).has_checkpoint())
    fail(options.out,
         ": holds a run already; --resume goes on with it, another --out begins a new one");
  return Run(options, words[0]).train();
}

}  // namespace samba
