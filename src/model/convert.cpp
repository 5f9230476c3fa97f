#include "model/convert.h"

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "core/files.h"
#include "model/tensor_writer.h"

namespace samba {
namespace {

namespace fs = std::filesystem;

/// Where the rows of our parameters lie in the source's tensors.
class Source {
 public:
  Source(const Layout& layout, const Model& model, const TensorFile& file)
      : names_(layout, model), file_(file) {
    names_.check(file);
    for (const std::string& tensor : names_.tensors())
      for (const WeightNames::Part& part : names_.parts(tensor))
        by_parameter_[part.parameter].push_back({names_.stored_name(file, tensor), part});
  }

  /// The type of the tensors that a part of a parameter comes from. Throws an Error where they are
  /// of several.
  StoredType type_of(const WeightNames::Part& wanted) const {
    std::optional<StoredType> type;
    for (const Place& place : by_parameter_.at(wanted.parameter)) {
      if (!overlap(place.part, wanted)) continue;
      const StoredType own = file_.at(place.tensor).type;
      if (type && *type != own)
        fail(file_.path(), ": tensor ", in_quotes(place.tensor), ": expected ", name_of(*type),
             " as its neighbours in one matrix have, found ", name_of(own), "; try --type");
      type = own;
    }
    if (!type) fail(file_.path(), ": found no tensor for ", wanted.parameter->name);
    return *type;
  }

  /// Copies the bytes of the part into rows of `row_bytes` bytes from `to` on.
  void read(const WeightNames::Part& wanted, Index size, std::byte* to, Index row_bytes) const {
    for (const Place& place : by_parameter_.at(wanted.parameter)) {
      const WeightNames::Part& part = place.part;
      if (!overlap(part, wanted)) continue;
      const Index row = std::max(part.row, wanted.row);
      const Index end = std::min(part.row + part.rows, wanted.row + wanted.rows);
      const Index column = std::max(part.column, wanted.column);
      const Index last = std::min(part.column + part.cols, wanted.column + wanted.cols);
      const std::span<const std::byte> bytes = bytes_of(place.tensor);
      for (Index r = row; r < end; ++r)
        std::memcpy(
            to + (r - wanted.row) * row_bytes + (column - wanted.column) * size,
            bytes.data() +
                ((part.tensor_row + r - part.row) * part.cols + column - part.column) * size,
            static_cast<std::size_t>((last - column) * size));
    }
  }

 private:
  struct Place {
    std::string tensor;
    WeightNames::Part part;
  };
  static bool overlap(const WeightNames::Part& a, const WeightNames::Part& b) {
    return a.row < b.row + b.rows && b.row < a.row + a.rows && a.column < b.column + b.cols &&
           b.column < a.column + a.cols;
  }
  /// A tensor's bytes in row-major order, gathered where they are stored in another.
  std::span<const std::byte> bytes_of(const std::string& tensor) const {
    const TensorInfo& info = file_.at(tensor);
    if (info.row_major())
      return {info.data, static_cast<std::size_t>(info.count() * size_of(info.type))};
    if (gathered_name_ != tensor) {
      gathered_.clear();
      file_.each_piece(tensor, [&](std::span<const std::byte> piece) {
        gathered_.insert(gathered_.end(), piece.begin(), piece.end());
      });
      gathered_name_ = tensor;
    }
    return gathered_;
  }

  WeightNames names_;
  const TensorFile& file_;
  std::map<const Parameter*, std::vector<Place>> by_parameter_;
  mutable std::string gathered_name_;
  mutable std::vector<std::byte> gathered_;
};

std::vector<Index> shape_of(const Layout& layout, const std::string& tensor, Index rows,
                            Index cols) {
  const auto form = layout.forms.find(tensor);
  if (form == layout.forms.end()) return {rows, cols};
  return form->second == TensorForm::vector ? std::vector<Index>{cols}
                                            : std::vector<Index>{rows, 1, cols};
}

std::vector<std::byte> converted(StoredType from, const std::vector<std::byte>& bytes, DType to,
                                 Index count) {
  std::vector<std::byte> result(static_cast<std::size_t>(count * size_of(to)));
  convert(from, bytes.data(), to, result.data(), count);
  return result;
}

/// What lies beside the weights of a published model, for its text.
const char* const kCompanions[] = {"tokenizer.model",
                                   "tokenizer.json",
                                   "tokenizer_config.json",
                                   "special_tokens_map.json",
                                   "added_tokens.json",
                                   "vocab.json",
                                   "merges.txt",
                                   "encoder.json",
                                   "vocab.bpe",
                                   "chat_template.jinja",
                                   "generation_config.json"};

/// Tensors without meaning: microsoft/Samba's code expects one for each Mega-S6, as the source has
/// it, else zero. Our own layout keeps what the source has, for the way back.
void add_buffers(const Layout& target, const TensorFile& file, TensorWriter& writer) {
  const auto copy = [&file](const std::string& name) {
    return [&file, name](const TensorWriter::Put& put) { file.each_piece(name, put); };
  };
  if (target.kind == "sambalm")
    for (const TensorInfo& tensor : file.tensors())
      if (is_buffer(tensor.name))
        writer.add(tensor.name, tensor.type, tensor.shape, copy(tensor.name));
  if (target.kind != "lit_gpt") return;
  for (std::size_t i = 0; i < target.config.layers.size(); ++i) {
    if (target.config.layers[i].at("type") != "mega_s6") continue;
    const std::string name = text_of("transformer.h.", i / 2, ".attn.rel_pos_bias._float_tensor");
    if (file.find(name) != nullptr) {
      writer.add(name, file.at(name).type, file.at(name).shape, copy(name));
    } else {
      writer.add(name, StoredType::f32, {1}, [](const TensorWriter::Put& put) {
        constexpr float kZero = 0;
        put(std::as_bytes(std::span(&kZero, 1)));
      });
    }
  }
}

void write_weights(const ModelSource& source, const Layout& target, const Conversion& conversion,
                   const fs::path& folder, const std::function<void(Index, Index)>& progress) {
  const std::optional<DType> wanted = conversion.type;
  Stream stream(1, Tier::plain);
  const Model model(source.layout.config, stream, DType::f32);
  const TensorFile file = source.tensors();
  const Source from(source.layout, model, file);
  const WeightNames names(target, model);
  TensorWriter writer;
  writer.metadata("format", "pt");
  std::vector<std::string> tensors = names.tensors();
  // The authors' code looks for both names of a tied matrix, as does state-spaces', Hugging Face's
  // for one.
  if (target.kind == "lit_gpt" || target.kind == "state_spaces")
    for (const auto& [second, first] : target.aliases) tensors.push_back(second);
  Index done = 0;
  for (const std::string& tensor : tensors) {
    const auto [rows, cols] = names.shape(tensor);
    const std::vector<WeightNames::Part>& parts = names.parts(tensor);
    const StoredType stored = from.type_of(parts.front());
    if (wanted && !convertible(stored, *wanted))
      fail(file.path(), ": tensor for ", in_quotes(tensor), ": expected floats, found ",
           name_of(stored));
    for (const WeightNames::Part& part : parts)
      if (from.type_of(part) != stored)
        fail(file.path(), ": expected one type for what becomes ", in_quotes(tensor), ", found ",
             name_of(stored), " and ", name_of(from.type_of(part)), "; try --type");
    const StoredType type = wanted ? stored_type_of(*wanted) : stored;
    writer.add(tensor, type, shape_of(target, tensor, rows, cols),
               [&, stored, type, rows = rows, cols = cols](const TensorWriter::Put& put) {
                 const Index size = size_of(stored), row_bytes = cols * size;
                 std::vector<std::byte> bytes(static_cast<std::size_t>(rows * row_bytes));
                 for (const WeightNames::Part& part : parts)
                   from.read(part, size, bytes.data() + part.tensor_row * row_bytes, row_bytes);
                 if (type != stored) bytes = converted(stored, bytes, *wanted, rows * cols);
                 put(bytes);
                 progress(++done, static_cast<Index>(tensors.size()));
               });
  }
  add_buffers(target, file, writer);
  if (target.kind == "state_spaces")
    writer.write_pth((folder / "pytorch_model.bin").string());
  else if (conversion.pth)
    writer.write_pth((folder / "iter-000000-ckpt.pth").string(), "model");
  else
    writer.write_safetensors((folder / "model.safetensors").string());
}

}  // namespace

void convert_model(const ModelSource& source, const Conversion& conversion,
                   const std::string& folder, const std::function<void(Index, Index)>& progress,
                   const std::function<void(const std::string&)>& add) {
  if (conversion.pth && conversion.kind != "lit_gpt")
    fail("pth: expected the layout lit_gpt, found ", conversion.kind);
  if (source.folder.empty())
    fail(source.name, ": expected a model folder, found a preset, which has no weights");
  if (exists(folder)) fail(folder, ": expected a new folder, found one that exists");
  const Json config = published_config(source.layout.config, conversion.kind);
  const Layout target = layout_of(config, "as " + conversion.kind);
  const std::string partial = folder + ".partial";
  make_folder(partial);
  try {
    write_weights(source, target, conversion, partial, progress);
    for (const char* name : kCompanions)
      if (const fs::path from = fs::path(source.folder) / name; exists(from.string()))
        write_text((fs::path(partial) / name).string(), read_text(from.string()));
    write_text((fs::path(partial) / "config.json").string(), config.dump(2) + "\n");
    add(partial);
    sync_folder(partial);
    std::error_code error;
    fs::rename(partial, folder, error);
    if (error) fail(folder, ": cannot rename ", partial, ": ", error.message());
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(partial, ignored);
    throw;
  }
}

}  // namespace samba
