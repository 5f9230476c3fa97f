#include "train/log.h"

#include <filesystem>
#include <functional>
#include <limits>
#include <string_view>

#include "core/error.h"
#include "core/files.h"
#include "core/json.h"

namespace samba {
namespace {

std::string log_path(const std::string& folder) {
  return (std::filesystem::path(folder) / "log.jsonl").string();
}

double number_of(const Json& value) {
  return value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.get<double>();
}

/// Calls visit(line, offset behind the line) for each line that ends, until it returns false.
/// Whatever the line makes nlohmann throw becomes an Error that names it.
void for_each_line(const std::string& path,
                   const std::function<bool(const Json&, std::size_t)>& visit) {
  const MappedFile file(path);
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()),
                              file.bytes().size());
  std::size_t number = 1;
  for (std::size_t first = 0;; ++number) {
    const std::size_t end = text.find('\n', first);
    if (end == std::string_view::npos) return;
    try {
      if (!visit(Json::parse(text.substr(first, end - first)), end + 1)) return;
    } catch (const Json::exception& error) {
      fail(path, ": line ", number, ": expected a training event; found ", error.what());
    }
    first = end + 1;
  }
}

/// The bytes of an existing log up to the first line behind the resumed step, or to a torn end.
std::size_t bytes_to_keep(const std::string& path, Index resumed_step) {
  if (resumed_step < 0 || !std::filesystem::exists(path)) return 0;
  std::size_t keep = 0;
  for_each_line(path, [&](const Json& line, std::size_t end) {
    if (line.at("step").get<Index>() > resumed_step) return false;
    keep = end;
    return true;
  });
  return keep;
}

Index positive(Index training_length) {
  if (training_length < 1)
    fail("training log: training_length: found ", training_length, "; expected at least 1");
  return training_length;
}

/// "1x" for the training length itself, "0.5x" for half of it.
std::string length_name(Index length, Index training_length) {
  return text_of(static_cast<double>(length) / static_cast<double>(training_length), "x");
}

}  // namespace

TrainingLog::TrainingLog(const Options& options)
    : training_length_(positive(options.training_length)),
      lines_(log_path(options.folder),
             bytes_to_keep(log_path(options.folder), options.resumed_step)),
      events_(options.folder, options.resumed_step + 1) {}

void TrainingLog::step(StepRecord record) {
  record.time = unix_seconds();
  Json line{{"event", "step"},
            {"step", record.step},
            {"tokens", record.tokens},
            {"loss", record.loss},
            {"lr", record.learning_rate},
            {"grad_norm", record.gradient_norm},
            {"tokens_per_second", record.tokens_per_second}};
  std::vector<Scalar> scalars{{"train/loss", record.loss},
                              {"train/lr", record.learning_rate},
                              {"train/grad_norm", record.gradient_norm},
                              {"train/tokens_per_second", record.tokens_per_second}};
  if (record.flops_share) {
    line["flops_share"] = *record.flops_share;
    scalars.push_back({"train/flops_share", *record.flops_share});
  }
  line["time"] = record.time;
  lines_.append(line.dump() + "\n");
  events_.write(record.step, scalars);
}

void TrainingLog::validation(ValidationRecord record) {
  record.time = unix_seconds();
  Json losses = Json::array();
  std::vector<Scalar> scalars;
  for (const LengthLoss& at : record.losses) {
    losses.push_back({{"length", at.length}, {"loss", at.loss}});
    scalars.push_back({"validation/loss@" + length_name(at.length, training_length_), at.loss});
  }
  const Json line{{"event", "validation"},
                  {"step", record.step},
                  {"tokens", record.tokens},
                  {"losses", losses},
                  {"time", record.time}};
  lines_.append(line.dump() + "\n");
  events_.write(record.step, scalars);
}

TrainingHistory read_training_log(const std::string& path) {
  TrainingHistory history;
  for_each_line(path, [&](const Json& line, std::size_t) {
    const std::string event = line.at("event").get<std::string>();
    if (event == "step") {
      StepRecord record{.step = line.at("step").get<Index>(),
                        .tokens = line.at("tokens").get<Index>(),
                        .loss = number_of(line.at("loss")),
                        .learning_rate = number_of(line.at("lr")),
                        .gradient_norm = number_of(line.at("grad_norm")),
                        .tokens_per_second = number_of(line.at("tokens_per_second")),
                        .flops_share = {},
                        .time = number_of(line.at("time"))};
      if (line.contains("flops_share")) record.flops_share = number_of(line.at("flops_share"));
      history.steps.push_back(record);
    } else if (event == "validation") {
      ValidationRecord record{.step = line.at("step").get<Index>(),
                              .tokens = line.at("tokens").get<Index>(),
                              .losses = {},
                              .time = number_of(line.at("time"))};
      for (const Json& at : line.at("losses"))
        record.losses.push_back({at.at("length").get<Index>(), number_of(at.at("loss"))});
      history.validations.push_back(std::move(record));
    }
    return true;
  });
  return history;
}

}  // namespace samba
