#include "model/folder.h"

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "core/files.h"
#include "core/json.h"
#include "model/llama2c.h"
#include "model/self_test.h"

namespace samba {
namespace {

namespace fs = std::filesystem;

/// The folder itself, or the last checkpoint of a run's folder.
std::string resolve(const std::string& folder) {
  const fs::path last = fs::path(folder) / "last.json";
  if (exists((fs::path(folder) / "config.json").string()) || !exists(last.string())) return folder;
  const Json document = read_json(last.string());
  if (!document.is_object() || !document.contains("last") || !document.at("last").is_string())
    fail(last.string(), ": expected {\"last\": CHECKPOINT}");
  const auto name = document.at("last").get<std::string>();
  if (fs::path(name).filename() != name || name.empty())
    fail(last.string(), ": last: expected the name of a folder beside it, found \"", name, "\"");
  return (fs::path(folder) / name).string();
}

}  // namespace

ModelSource open_model(const std::string& name) {
  if (is_folder(name)) {
    const std::string folder = resolve(name);
    const std::string path = (fs::path(folder) / "config.json").string();
    if (!exists(path))
      fail(name, ": expected a model folder; it holds no config.json and no last.json");
    return {name, folder, layout_of(read_json(path), path)};
  }
  if (is_llama2c(name)) {
    const fs::path folder = fs::path(name).parent_path();
    return {name, folder.empty() ? "." : folder.string(), llama2c_layout(name), name};
  }
  return {name, "", layout_of(config_document(name), name)};
}

TensorFile ModelSource::tensors() const {
  return file.empty() ? open_model_tensors(folder) : open_llama2c(file);
}

std::unique_ptr<Model> allocate_model(const ModelSource& source, Stream& stream, DType dtype,
                                      bool training) {
  self_test(source.layout.config, stream, dtype, training);
  auto model = std::make_unique<Model>(source.layout.config, stream, dtype);
  // Before anything is allocated from what the config claims.
  if (!source.folder.empty()) WeightNames(source.layout, *model).check(source.tensors());
  model->allocate(training);
  return model;
}

void read_weights(const ModelSource& source, Model& model, std::uint64_t seed,
                  const Destination& destination) {
  if (source.folder.empty()) return initialise(model, seed, destination);
  WeightNames(source.layout, model).read(source.tensors(), destination);
}

std::unique_ptr<Model> load_model(const ModelSource& source, Stream& stream, DType dtype,
                                  bool training, std::uint64_t seed) {
  auto model = allocate_model(source, stream, dtype, training);
  read_weights(source, *model, seed);
  return model;
}

WeightNames::WeightNames(const Layout& layout, const Model& model)
    : layout_(layout), model_(model) {
  std::map<std::string, const Parameter*> parameters;
  for (const Parameter& p : model.parameters()) {
    parameters[p.name] = &p;
    if (!layout.pieces.empty()) continue;
    order_.push_back(p.name);
    parts_[p.name] = {{&p, 0, 0, p.rows, 0, p.cols}};
  }
  for (const TensorRows& piece : layout.pieces) {
    std::vector<Part>& parts = parts_[piece.tensor];
    if (parts.empty()) order_.push_back(piece.tensor);
    const Parameter& p = *parameters.at(piece.parameter);
    parts.push_back({&p, piece.tensor_row, piece.row, piece.rows, piece.column,
                     piece.cols > 0 ? piece.cols : p.cols});
  }
}

std::vector<std::string> WeightNames::tensors() const {
  return order_;
}

std::string WeightNames::first_name(const std::string& tensor) const {
  const auto alias = layout_.aliases.find(tensor);
  return alias == layout_.aliases.end() ? tensor : alias->second;
}

bool WeightNames::known(const std::string& tensor) const {
  return parts_.count(first_name(tensor)) > 0;
}

const std::vector<WeightNames::Part>& WeightNames::parts(const std::string& tensor) const {
  const auto found = parts_.find(first_name(tensor));
  if (found == parts_.end()) fail(tensor, ": the model has no tensor of this name");
  return found->second;
}

std::pair<Index, Index> WeightNames::shape(const std::string& tensor) const {
  Index rows = 0;
  for (const Part& part : parts(tensor)) rows = std::max(rows, part.tensor_row + part.rows);
  return {rows, parts(tensor).front().cols};
}

std::string WeightNames::stored_name(const TensorFile& file, const std::string& name) const {
  if (file.find(name) != nullptr) return name;
  for (const auto& [second, first] : layout_.aliases)
    if (first == name && file.find(second) != nullptr) return second;
  fail(file.path(), ": tensor \"", name, "\" is missing");
}

void WeightNames::check(const TensorFile& file) const {
  for (const std::string& name : file.names())
    if (!known(name) && !is_buffer(name))
      fail(file.path(), ": tensor \"", name,
           "\" is none of this model's; its config.json describes another");
  for (const std::string& name : order_) {
    const std::vector<Index>& stored = file.shape(stored_name(file, name));
    const auto [rows, cols] = shape(name);
    if (count_of(stored) != rows * cols)
      fail(file.path(), ": tensor \"", name, "\": expected [", rows, ", ", cols, "], found ",
           text_of_shape(stored), "; its config.json describes another model");
  }
}

void WeightNames::read(const TensorFile& file, const Destination& destination) const {
  check(file);
  Stream& stream = model_.stream();
  for (const std::string& name : order_) {
    const std::string stored = stored_name(file, name);
    const std::vector<Part>& all = parts(name);
    if (all.size() == 1 && all[0].whole()) {
      const View value = destination(*all[0].parameter);
      if (stream.cuda() == nullptr) {
        file.read(stored, value);
        continue;
      }
      const Matrix staged(stream.host(), value.dtype, value.rows, value.cols);
      file.read(stored, staged);
      copy(stream, value, staged);
      continue;
    }
    const auto [rows, cols] = shape(name);
    const Matrix whole(stream.host(), destination(*all[0].parameter).dtype, rows, cols);
    file.read(stored, whole);
    for (const Part& part : all)
      copy(stream, part.of(destination(*part.parameter)),
           whole.view().block(part.tensor_row, part.rows));
  }
}

Matrix WeightNames::gradient(const std::string& tensor) const {
  const auto [rows, cols] = shape(tensor);
  const std::vector<Part>& all = parts(tensor);
  Matrix whole(model_.stream().host(), all[0].parameter->grad.dtype(), rows, cols);
  for (const Part& part : all)
    copy(model_.stream(), whole.view().block(part.tensor_row, part.rows),
         part.of(part.parameter->grad));
  return whole;
}

}  // namespace samba
