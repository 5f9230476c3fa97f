#include "eval/run_report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <filesystem>

#include "core/error.h"
#include "core/files.h"
#include "core/human.h"
#include "core/json.h"
#include "generate/engine.h"

namespace samba {
namespace {

namespace fs = std::filesystem;

std::string fixed(double value, int digits) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.*f", digits, value);
  return text;
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  char text[16];
  std::strftime(text, sizeof(text), "%Y-%m-%d", std::localtime(&now));
  return text;
}

/// The log of the run that the model comes from; empty where there is none.
TrainingHistory history_of(const ModelSource& source) {
  std::error_code ignored;
  for (const fs::path& folder : {fs::path(source.folder), fs::path(source.folder).parent_path()})
    if (fs::exists(folder / "log.jsonl", ignored))
      return read_training_log((folder / "log.jsonl").string());
  return {};
}

template <class Value>
Series over_tokens(const std::string& name, const TrainingHistory& history, Value&& value) {
  Series series{.name = name, .x = {}, .y = {}, .style = Series::Style::averaged};
  for (const StepRecord& step : history.steps) {
    series.x.push_back(static_cast<double>(step.tokens));
    series.y.push_back(value(step));
  }
  return series;
}

void add_training(Report& report, const TrainingHistory& history) {
  if (history.steps.empty()) return;
  const StepRecord& last = history.steps.back();
  report.training = over_tokens("training", history, [](const StepRecord& s) { return s.loss; });
  for (std::size_t k = 0; !history.validations.empty() && k < history.validations[0].losses.size();
       ++k) {
    Series series;
    series.name = "validation at " + std::to_string(history.validations[0].losses[k].length);
    series.style = Series::Style::marked;
    for (const ValidationRecord& v : history.validations) {
      if (k >= v.losses.size()) continue;
      series.x.push_back(static_cast<double>(v.tokens));
      series.y.push_back(v.losses[k].loss);
    }
    report.validation.push_back(std::move(series));
  }
  report.highlights.push_back({"tokens trained on", human_count(static_cast<double>(last.tokens))});
  report.summary.push_back({"Steps", std::to_string(last.step)});
  report.summary.push_back({"Tokens trained on", std::to_string(last.tokens)});
  double seconds = 0;
  Index before = 0;
  for (const StepRecord& step : history.steps) {
    if (step.tokens_per_second > 0)
      seconds += static_cast<double>(step.tokens - before) / step.tokens_per_second;
    before = step.tokens;
  }
  std::vector<double> rates;
  for (const StepRecord& step : history.steps)
    if (step.tokens_per_second > 0) rates.push_back(step.tokens_per_second);
  if (!rates.empty()) {
    const auto middle = rates.begin() + static_cast<std::ptrdiff_t>(rates.size() / 2);
    std::nth_element(rates.begin(), middle, rates.end());
    report.size.tokens_per_second = *middle;
  }
  report.summary.push_back({"Time in training steps", human_seconds(seconds)});
  report.summary.push_back({"Last training loss", fixed(last.loss, 3) + " nats per token"});
  const auto detail = [&](const std::string& title, const std::string& unit, auto value) {
    report.details.push_back({.title = title,
                              .x = {.label = "tokens"},
                              .y = {.label = unit},
                              .series = {over_tokens(title, history, value)}});
  };
  detail("Learning rate", "rate", [](const StepRecord& s) { return s.learning_rate; });
  detail("Gradient norm", "norm", [](const StepRecord& s) { return s.gradient_norm; });
  detail("Speed", "tokens per second", [](const StepRecord& s) { return s.tokens_per_second; });
  detail("Share of the machine's matrix rate", "%",
         [](const StepRecord& s) { return 100 * s.flops_share.value_or(NAN); });
}

}  // namespace

Report run_report(const ModelSource& source, const Model& model,
                  const std::vector<LengthLoss>& lengths, Index sequences) {
  const ModelConfig& config = model.config();
  Report report;
  report.title = config.name;
  report.subtitle = "Perplexity by context length on held-out text, and how the model was trained.";
  report.highlights.push_back(
      {"parameters", human_count(static_cast<double>(model.parameter_count()))});
  report.summary = {
      {"Model", source.name},
      {"Parameters", std::to_string(model.parameter_count())},
      {"State of a sequence", human_bytes(static_cast<double>(model.state_bytes(config.context)))},
      {"Vocabulary", std::to_string(config.vocab)}};
  report.training_length = config.context;
  report.size.parameters = model.parameter_count();
  report.size.state_bytes = model.state_bytes(config.context);
  for (const LengthLoss& l : lengths)
    report.lengths.push_back({l.length, l.loss, l.length * sequences});
  if (!lengths.empty())
    report.highlights.push_back(
        {"perplexity at " + std::to_string(lengths.front().length) + " tokens",
         fixed(std::exp(lengths.front().loss), 2)});
  if (lengths.size() > 1)
    report.highlights.push_back(
        {"perplexity at " + std::to_string(lengths.back().length) + " tokens",
         fixed(std::exp(lengths.back().loss), 2)});
  add_training(report, history_of(source));
  const fs::path path = fs::path(source.folder) / "config.json";
  if (exists(path.string())) report.config = read_json(path.string()).dump(2);
  report.version = SAMBA_VERSION;
  report.date = today();
  return report;
}

Sample write_sample(Model& model, const Tokenizer& tokenizer, const std::string& prompt,
                    Index tokens, std::uint64_t seed) {
  Sample sample;
  sample.prompt = prompt;
  Request request;
  request.prompt = tokenizer.prompt(prompt);
  request.max_tokens = tokens;
  request.sampling = {.temperature = 0.8, .seed = seed};
  StreamingDecoder decoder(tokenizer);
  for (const std::int32_t id : request.prompt) decoder.push(id);
  request.on_token = [&](std::int32_t id) {
    sample.continuation += decoder.push(id);
    return true;
  };
  const Index context = static_cast<Index>(request.prompt.size()) + tokens;
  Engine engine(model, {.context = context, .vocabulary = tokenizer.vocabulary()});
  engine.submit(std::move(request));
  engine.run();
  sample.continuation += decoder.flush();
  sample.settings = text_of("temperature 0.8, seed ", seed);
  return sample;
}

}  // namespace samba
