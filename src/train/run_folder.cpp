#include "train/run_folder.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>

#include "core/error.h"
#include "core/files.h"
#include "model/safetensors.h"
#include "model/tensor_writer.h"

namespace samba {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPartial = ".partial";

fs::path last_file(const std::string& folder) {
  return fs::path(folder) / "last.json";
}

/// What last.json says: `last`, a checkpoint's name, and perhaps `best` with its `best_loss`.
Json read_last(const std::string& folder) {
  const std::string path = last_file(folder).string();
  Json document = read_json(path);
  const auto is = [&](const char* key, auto kind) {
    return document.contains(key) && (document.at(key).*kind)();
  };
  if (!document.is_object() || !is("last", &Json::is_string))
    fail(path, ": expected {\"last\": CHECKPOINT}");
  if (document.contains("best") &&
      !(is("best", &Json::is_string) && is("best_loss", &Json::is_number)))
    fail(path, ": expected best to be a checkpoint and best_loss a number");
  return document;
}

std::string checkpoint_name(Index step) {
  char name[32];
  std::snprintf(name, sizeof(name), "step-%08lld", static_cast<long long>(step));
  return name;
}

void remove_folder(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) fail(path.string(), ": cannot remove: ", error.message());
}

/// Removes a checkpoint; one that is half removed never stands under its name.
void remove_checkpoint(const fs::path& path) {
  const fs::path old = path.string() + ".old" + kPartial;
  if (fs::exists(path)) fs::rename(path, old);
  remove_folder(old);
}

/// Names of finished checkpoints, oldest first.
std::vector<std::string> checkpoints(const std::string& folder) {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.rfind("step-", 0) == 0 && entry.path().extension() != kPartial) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

/// Adds a matrix that lies where the stream's ops have it.
void add(TensorWriter& writer, Stream& stream, const std::string& name, ConstView values) {
  if (stream.cuda() == nullptr) return writer.add(name, values);
  writer.add(name, stored_type_of(values.dtype), {values.rows, values.cols},
             [&stream, values](const TensorWriter::Put& put) {
               const Matrix copy = download(stream, values);
               put({copy.view().data, static_cast<std::size_t>(copy.bytes())});
             });
}

/// The reverse.
void read(const TensorFile& file, Stream& stream, const std::string& name, View values) {
  if (stream.cuda() == nullptr) return file.read(name, values);
  const Matrix staged(stream.host(), values.dtype, values.rows, values.cols);
  file.read(name, staged);
  copy(stream, values, staged);
}

void write_weights(const Trainer& trainer, const fs::path& folder) {
  Stream& stream = trainer.model().stream();
  TensorWriter weights, moments;
  weights.metadata("format", "pt");
  for (const Optimizer::Slot& slot : trainer.optimizer().slots()) {
    const std::string& name = slot.parameter->name;
    add(weights, stream, name, slot.weights());
    add(moments, stream, "m." + name, slot.m);
    add(moments, stream, "v." + name, slot.v);
  }
  weights.write_safetensors((folder / "model.safetensors").string());
  moments.write_safetensors((folder / "optimizer.safetensors").string());
}

/// A folder beside `target` to fill and rename; removed again when that does not come to pass.
class Partial {
 public:
  explicit Partial(const fs::path& target) : path_(target.string() + kPartial) {
    remove_folder(path_);
    make_folder(path_.string());
  }
  ~Partial() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  Partial(const Partial&) = delete;
  Partial& operator=(const Partial&) = delete;

  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

void write_checkpoint(const Trainer& trainer, const Json& run, const Tokenizer* tokenizer,
                      const fs::path& folder) {
  const Model& model = trainer.model();
  Json config = json_of(model.config());
  config["train"] = run;
  write_json((folder / "config.json").string(), config);
  write_weights(trainer, folder);
  if (tokenizer != nullptr) tokenizer->write(folder.string());
  write_json((folder / "trainer.json").string(), {{"step", trainer.steps_done()},
                                                  {"tokens", trainer.tokens_done()},
                                                  {"dtype", name_of(model.dtype())},
                                                  {"threads", model.stream().threads()},
                                                  {"tier", name_of(model.stream().tier())},
                                                  {"device", model.stream().device()},
                                                  {"version", SAMBA_VERSION}});
}

}  // namespace

RunFolder::RunFolder(std::string path, Index keep) : path_(std::move(path)), keep_(keep) {
  if (keep < 1) fail("keep: expected at least 1, found ", keep);
}

bool RunFolder::has_checkpoint() const {
  return exists(last_file(path_).string());
}

std::string RunFolder::last() const {
  return (fs::path(path_) / read_last(path_).at("last").get<std::string>()).string();
}

void RunFolder::clean() const {
  std::vector<fs::path> partial;
  for (const fs::directory_entry& entry : fs::directory_iterator(path_))
    if (entry.path().extension() == kPartial ||
        entry.path().filename().string().rfind("last.json.tmp", 0) == 0)
      partial.push_back(entry.path());
  for (const fs::path& path : partial) remove_folder(path);
}

void RunFolder::save(const Trainer& trainer, const Json& run, const Tokenizer* tokenizer,
                     std::optional<double> validation_loss) {
  const std::string name = checkpoint_name(trainer.steps_done());
  const fs::path target = fs::path(path_) / name;
  const Partial partial(target);
  write_checkpoint(trainer, run, tokenizer, partial.path());
  remove_checkpoint(target);  // a run that was resumed before this step writes it anew
  fs::rename(partial.path(), target);
  sync_folder(path_);

  Json last = {{"last", name}};
  double best = INFINITY;
  if (has_checkpoint()) {
    const Json before = read_last(path_);
    if (before.contains("best") &&
        fs::exists(fs::path(path_) / before["best"].get<std::string>())) {
      last["best"] = before["best"];
      last["best_loss"] = before["best_loss"];
      best = before["best_loss"].get<double>();
    }
  }
  if (validation_loss && *validation_loss < best) {
    last["best"] = name;
    last["best_loss"] = *validation_loss;
  }
  write_json(last_file(path_).string(), last);

  const std::vector<std::string> all = checkpoints(path_);
  for (std::size_t i = 0; i + static_cast<std::size_t>(keep_) < all.size(); ++i) {
    // The newest is not that of the highest step when a run went on from an earlier one.
    const bool best_one = last.contains("best") && last["best"] == all[i];
    if (all[i] != name && !best_one) remove_checkpoint(fs::path(path_) / all[i]);
  }
}

void load_checkpoint(const std::string& checkpoint, Trainer& trainer) {
  const fs::path folder(checkpoint);
  const TensorFile weights = open_safetensors((folder / "model.safetensors").string());
  const TensorFile moments = open_safetensors((folder / "optimizer.safetensors").string());
  const std::size_t count = trainer.optimizer().slots().size();
  const auto expect_count = [](const TensorFile& file, std::size_t expected) {
    if (file.tensors().size() != expected)
      fail(file.path(), ": expected ", expected, " tensors, found ", file.tensors().size(),
           ": those of another model");
  };
  expect_count(weights, count);
  expect_count(moments, 2 * count);
  for (Optimizer::Slot& slot : trainer.optimizer().slots()) {
    const std::string& name = slot.parameter->name;
    Stream& stream = trainer.model().stream();
    read(weights, stream, name, slot.weights());
    read(moments, stream, "m." + name, slot.m);
    read(moments, stream, "v." + name, slot.v);
  }
  const std::string path = (folder / "trainer.json").string();
  const Json state = read_json(path);
  if (!state.is_object() || !state.contains("step") || !state["step"].is_number_integer() ||
      state["step"].get<Index>() < 0)
    fail(path, ": expected a key \"step\" with a whole number");
  trainer.restore(state["step"].get<Index>());
}

}  // namespace samba
