#include "model/safetensors.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <limits>
#include <utility>

#include "core/error.h"
#include "core/json.h"

namespace samba {
namespace {

constexpr std::size_t kLongestHeader = 100'000'000;
constexpr std::size_t kLengthBytes = 8;
constexpr std::size_t kMostDimensions = 32;
constexpr Index kPiece = 8192;  // elements converted at a time

/// The events of a JSON text, parsed without a tree: a text may nest as deep as it likes and costs
/// no memory. A reader overrides the events that its format has; any other is refused.
class JsonEvents : public nlohmann::json_sax<Json> {
 public:
  explicit JsonEvents(std::string path) : path_(std::move(path)) {}

  void parse(std::string_view text) { Json::sax_parse(text.begin(), text.end(), this); }

  bool null() override { return other("null"); }
  bool boolean(bool) override { return other("a boolean"); }
  bool number_integer(number_integer_t) override { return other("a negative number"); }
  bool number_unsigned(number_unsigned_t) override { return other("a number"); }
  bool number_float(number_float_t, const string_t&) override { return other("a fraction"); }
  bool string(string_t&) override { return other("a string"); }
  bool binary(binary_t&) override { return other("binary data"); }
  bool start_array(std::size_t) override { return other("an array"); }
  bool end_array() override { return true; }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    fail(path_, ": found a fault in the JSON text at byte ", position,
         "; expected one JSON object");
  }

 protected:
  std::string path_;

  /// An event that the reader has no use for; throws, or returns true to pass over it.
  virtual bool other(const char* found) = 0;
};

/// Where the header says that a tensor's bytes lie, counted from the end of the header.
struct Entry {
  TensorInfo tensor;
  Index begin = 0;
  Index end = 0;
};

/// Reads {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...,
/// "__metadata__": {"key": "text", ...}}.
class HeaderReader final : public JsonEvents {
 public:
  using JsonEvents::JsonEvents;
  std::vector<Entry> entries;
  std::map<std::string, std::string> metadata;

  bool start_object(std::size_t) override {
    if (depth_ == 2) return other("an object");
    if (++depth_ == 2 && !in_metadata_)
      entry_ = {}, type_.reset(), shape_.reset(), offsets_.reset();
    return true;
  }

  bool key(string_t& text) override {
    if (depth_ == 1) {
      in_metadata_ = text == "__metadata__";
      if (in_metadata_ && std::exchange(metadata_seen_, true)) twice(text);
      name_ = std::move(text);
    } else {
      if (in_metadata_ && metadata.contains(text)) twice(text);
      field_ = std::move(text);
    }
    return true;
  }

  bool string(string_t& text) override {
    if (depth_ == 2 && in_metadata_) {
      metadata.emplace(field_, std::move(text));
      return true;
    }
    if (depth_ != 2 || field_ != "dtype") return other("a string");
    if (type_) twice(field_);
    type_ = stored_type_of(text);
    if (!type_)
      fail(path_, ": tensor ", in_quotes(name_), ": found dtype ", in_quotes(text),
           "; expected a known one such as F32 or BF16");
    return true;
  }

  bool start_array(std::size_t) override {
    if (depth_ != 2 || in_metadata_ || array_ != nullptr) return other("an array");
    std::optional<std::vector<Index>>* list = field_ == "shape"          ? &shape_
                                              : field_ == "data_offsets" ? &offsets_
                                                                         : nullptr;
    if (list == nullptr) return other("an array");
    if (*list) twice(field_);
    array_ = &list->emplace();
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (array_ == nullptr) return other("a number");
    if (value > static_cast<number_unsigned_t>(std::numeric_limits<Index>::max()))
      return other("a number above 2^63");
    if (array_->size() == kMostDimensions) return other("more than 32 numbers");
    array_->push_back(static_cast<Index>(value));
    return true;
  }

  bool end_array() override {
    array_ = nullptr;
    return true;
  }

  bool end_object() override {
    if (depth_-- == 2 && !in_metadata_) finish_entry();
    return true;
  }

 private:
  int depth_ = 0;
  bool in_metadata_ = false;
  bool metadata_seen_ = false;
  std::string name_;   // of the tensor, or "__metadata__"
  std::string field_;  // of the inner object
  Entry entry_;
  std::optional<StoredType> type_;
  std::optional<std::vector<Index>> shape_;
  std::optional<std::vector<Index>> offsets_;
  std::vector<Index>* array_ = nullptr;  // the one that is open

  bool other(const char* found) override {
    const char* expected = in_metadata_ ? "text" : "a dtype, a shape and data_offsets";
    const std::string field = depth_ == 2 ? " " + in_quotes(field_) : "";
    fail(path_, ": header, at ", in_quotes(name_), field, ": found ", found, "; expected ",
         expected);
  }

  [[noreturn]] void twice(std::string_view key) {
    fail(path_, ": header: key ", in_quotes(key), " is there twice; expected each key once");
  }

  void finish_entry() {
    if (!type_ || !shape_ || !offsets_ || offsets_->size() != 2)
      fail(path_, ": tensor ", in_quotes(name_),
           ": found no complete entry; expected a dtype, a shape and two data_offsets");
    entry_.begin = offsets_->at(0);
    entry_.end = offsets_->at(1);
    const std::optional<Index> count = count_of(*shape_);
    Index bytes = 0;
    if (!count || __builtin_mul_overflow(*count, size_of(*type_), &bytes))
      fail(path_, ": tensor ", in_quotes(name_), ": found shape ", text_of_shape(*shape_),
           "; expected one of less than 2^63 bytes");
    if (entry_.begin > entry_.end || entry_.end - entry_.begin != bytes)
      fail(path_, ": tensor ", in_quotes(name_), ": found data_offsets ", text_of_shape(*offsets_),
           "; expected ", bytes, " bytes for ", name_of(*type_), text_of_shape(*shape_));
    entry_.tensor = {std::move(name_), *type_, std::move(*shape_), {}, nullptr};
    entry_.tensor.strides = row_major_strides(entry_.tensor.shape);
    entries.push_back(std::move(entry_));
  }
};

/// Checks that the tensors, in the order of their offsets, cover `data` without holes or overlaps,
/// and points them at their bytes.
std::vector<TensorInfo> lay_out(const std::string& path, std::vector<Entry>& entries,
                                std::span<const std::byte> data) {
  std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  const auto size = static_cast<Index>(data.size());
  Index covered = 0;
  std::vector<TensorInfo> tensors;
  tensors.reserve(entries.size());
  for (Entry& entry : entries) {
    const std::string& name = entry.tensor.name;
    if (entry.begin != covered)
      fail(path, ": tensor ", in_quotes(name), " begins at byte ", entry.begin,
           " of the data; expected ", covered, ", where the one before it ends");
    if (entry.end > size)
      fail(path, ": tensor ", in_quotes(name), " ends at byte ", entry.end,
           " of the data; expected ", size, " at most, the end of the file");
    covered = entry.end;
    entry.tensor.data = data.data() + entry.begin;
    tensors.push_back(std::move(entry.tensor));
  }
  if (covered != size)
    fail(path, ": found ", size, " bytes of data; expected ", covered,
         ", where the last tensor ends");
  return tensors;
}

/// The tensors of one mapped file.
std::vector<TensorInfo> read_header(const MappedFile& file,
                                    std::map<std::string, std::string>& metadata) {
  const std::span<const std::byte> bytes = file.bytes();
  if (bytes.size() < kLengthBytes)
    fail(file.path(), ": found ", bytes.size(),
         " bytes; expected a safetensors file of 10 or more");
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof(length));
  if (length > kLongestHeader)
    fail(file.path(), ": found a header of ", length, " bytes; expected a safetensors file, whose ",
         "header has ", kLongestHeader, " at most");
  if (length > bytes.size() - kLengthBytes)
    fail(file.path(), ": found ", bytes.size() - kLengthBytes, " bytes after the header's length; ",
         "expected a header of ", length);
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + kLengthBytes, length);
  if (!text.starts_with('{'))
    fail(file.path(), ": found a header without '{'; expected a JSON object");
  HeaderReader reader(file.path());
  reader.parse(text);
  metadata = std::move(reader.metadata);
  return lay_out(file.path(), reader.entries, bytes.subspan(kLengthBytes + length));
}

/// Reads {"weight_map": {"name": "file", ...}} and passes over everything else.
class IndexReader final : public JsonEvents {
 public:
  using JsonEvents::JsonEvents;
  std::map<std::string, std::string> file_of;  ///< by tensor

  bool start_object(std::size_t) override {
    if (in_map_ && depth_ >= 2) return other("an object");
    ++depth_;
    return true;
  }
  bool end_object() override { return --depth_, true; }
  bool start_array(std::size_t) override {
    if (depth_ < 2 || in_map_) other("an array");
    ++depth_;
    return true;
  }
  bool end_array() override { return --depth_, true; }

  bool key(string_t& text) override {
    if (depth_ == 1) {
      in_map_ = text == "weight_map";
      if (in_map_ && std::exchange(map_seen_, true)) twice(text);
    }
    if (in_map_ && file_of.contains(text)) twice(text);
    name_ = std::move(text);
    return true;
  }

  bool string(string_t& text) override {
    if (!in_map_) return true;
    if (depth_ != 2) return other("a string");
    if (text.empty() || text.find('/') != std::string::npos)
      fail(path_, ": weight_map, at ", in_quotes(name_), ": found file ", in_quotes(text),
           "; expected the name of a file in the same folder");
    file_of.emplace(name_, std::move(text));
    return true;
  }

 private:
  std::size_t depth_ = 0;
  bool in_map_ = false;
  bool map_seen_ = false;
  std::string name_;

  bool other(const char* found) override {
    if (in_map_ || depth_ == 0)
      fail(path_, ": weight_map, at ", in_quotes(name_), ": found ", found,
           "; expected an object of tensor names and file names");
    return true;
  }

  [[noreturn]] void twice(std::string_view key) {
    fail(path_, ": key ", in_quotes(key), " is there twice; expected each key once");
  }
};

}  // namespace

TensorFile open_safetensors(const std::string& path) {
  std::vector<MappedFile> files;
  files.emplace_back(path);
  std::map<std::string, std::string> metadata;
  std::vector<TensorInfo> tensors = read_header(files.front(), metadata);
  return TensorFile(path, std::move(files), std::move(tensors), std::move(metadata));
}

TensorFile open_sharded_safetensors(const std::string& index_path) {
  IndexReader index(index_path);
  index.parse(read_text(index_path, kLongestHeader));
  if (index.file_of.empty())
    fail(index_path, ": found no tensor in weight_map; expected their names and files");
  const std::filesystem::path folder = std::filesystem::path(index_path).parent_path();
  std::map<std::string, std::map<std::string, std::string>> metadata_of;  // by file
  for (const auto& [name, file] : index.file_of) metadata_of[file];
  std::vector<MappedFile> files;
  std::vector<TensorInfo> tensors;
  std::map<std::string, std::string> metadata;
  std::map<std::string, std::string> found_in;
  for (auto& [name, file_metadata] : metadata_of) {
    files.emplace_back((folder / name).string());
    for (TensorInfo& tensor : read_header(files.back(), file_metadata)) {
      found_in.emplace(tensor.name, name);
      tensors.push_back(std::move(tensor));
    }
    metadata.merge(file_metadata);
  }
  TensorFile set(index_path, std::move(files), std::move(tensors), std::move(metadata));
  for (const auto& [name, file] : index.file_of) {
    const auto found = found_in.find(name);
    if (found == found_in.end() || found->second != file)
      fail(index_path, ": weight_map names ", in_quotes(file), " for tensor ", in_quotes(name),
           "; expected it to be there");
  }
  return set;
}

}  // namespace samba
