#include "model/tensors.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <numeric>

#include "core/error.h"
#include "model/pth.h"
#include "model/safetensors.h"

namespace samba {
namespace {

constexpr Index kPiece = 8192;  // elements converted or gathered at a time; 64 KiB at most
constexpr int kThreads = 2;     // reading is bound by memory: more gain little
constexpr Index kThreadedElements = Index{1} << 18;  // below this a second thread costs more

/// Copies elements [first, first + count) of the row-major order, wherever they lie, to `to`.
template <std::size_t kSize>
void gather_elements(const TensorInfo& tensor, Index first, Index count, std::byte* to) {
  const std::size_t rank = tensor.shape.size();
  std::vector<Index> place(rank);
  Index at = 0;
  for (std::size_t d = rank; d-- > 0; first /= tensor.shape[d]) {
    place[d] = first % tensor.shape[d];
    at += place[d] * tensor.strides[d];
  }
  for (Index i = 0; i < count; ++i) {
    std::memcpy(to + static_cast<std::size_t>(i) * kSize,
                tensor.data + static_cast<std::size_t>(at) * kSize, kSize);
    for (std::size_t d = rank; d-- > 0;) {
      at += tensor.strides[d];
      if (++place[d] < tensor.shape[d]) break;
      at -= tensor.strides[d] * tensor.shape[d];
      place[d] = 0;
    }
  }
}

void gather(const TensorInfo& tensor, Index first, Index count, std::byte* to) {
  switch (size_of(tensor.type)) {
    case 1: return gather_elements<1>(tensor, first, count, to);
    case 2: return gather_elements<2>(tensor, first, count, to);
    case 4: return gather_elements<4>(tensor, first, count, to);
    default: return gather_elements<8>(tensor, first, count, to);
  }
}

/// Reads elements [first, first + count), at most kPiece, into the view in row-major order.
bool read_piece(const TensorInfo& tensor, bool row_major, View to, Index first, Index count) {
  alignas(64) std::byte gathered[kPiece * 8];
  const std::byte* from = gathered;
  if (row_major)
    from = tensor.data + first * size_of(tensor.type);
  else
    gather(tensor, first, count, gathered);
  bool inside = true;
  while (count > 0) {
    const Index row = first / to.cols, col = first % to.cols;
    const Index length = std::min(count, to.cols - col);
    std::byte* out = to.data + (row * to.stride + col) * size_of(to.dtype);
    inside &= convert(tensor.type, from, to.dtype, out, length);
    from += length * size_of(tensor.type);
    first += length;
    count -= length;
  }
  return inside;
}

/// Whether [rows x cols] is the shape with its first dimensions and its last ones multiplied.
bool flattens_to(std::span<const Index> shape, Index rows, Index cols) {
  for (std::size_t k = 0; k <= shape.size(); ++k)
    if (count_of(shape.first(k)) == rows && count_of(shape.subspan(k)) == cols) return true;
  return false;
}

/// Maps the pages of a large tensor in one call: a page fault for each would take longer than the
/// copy. Only a hint, so what the system answers does not matter.
void map_pages(const std::byte* data, Index bytes) {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<std::uintptr_t>(data) / page * page;
  const auto end = reinterpret_cast<std::uintptr_t>(data) + static_cast<std::uintptr_t>(bytes);
#ifdef MADV_POPULATE_READ
  ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_POPULATE_READ);
#else
  ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_WILLNEED);
#endif
}

/// The iteration that "iter-000123-ckpt.pth" names, without leading zeros; "" for other names.
std::string_view iteration_of(std::string_view name) {
  constexpr std::string_view kPrefix = "iter-";
  if (!name.starts_with(kPrefix) || !name.ends_with(".pth")) return "";
  name.remove_prefix(kPrefix.size());
  const std::string_view digits = name.substr(0, name.find_first_not_of("0123456789"));
  return digits.substr(std::min(digits.find_first_not_of('0'), digits.size() - !digits.empty()));
}

/// The iter-*.pth of the highest iteration in the folder; "" where there is none.
std::string last_iteration(const std::string& folder) {
  // Iterations compare as numbers of any length: first by their digits' count.
  const auto rank = [](const std::string& name) {
    const std::string_view iteration = iteration_of(name);
    return std::tuple(iteration.size(), iteration, std::string_view(name));
  };
  std::string last;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (!iteration_of(name).empty() && rank(name) > rank(last)) last = name;
  }
  return last;
}

}  // namespace

std::optional<Index> count_of(std::span<const Index> shape) {
  Index product = 1;
  bool empty = false;
  for (const Index size : shape) {
    if (size == 0)
      empty = true;
    else if (size < 0 || __builtin_mul_overflow(product, size, &product))
      return std::nullopt;
  }
  return empty ? 0 : product;
}

std::vector<Index> row_major_strides(std::span<const Index> shape) {
  std::vector<Index> strides(shape.size());
  Index stride = 1;
  for (std::size_t d = shape.size(); d-- > 0; stride *= shape[d]) strides[d] = stride;
  return strides;
}

std::string text_of_shape(std::span<const Index> shape) {
  std::string text = "[";
  for (const Index size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

std::string in_quotes(std::string_view name) {
  constexpr std::size_t kLongest = 100;
  std::string text = "\"";
  for (const char c : name.substr(0, kLongest))
    text += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  return text + (name.size() > kLongest ? "...\"" : "\"");
}

Index TensorInfo::count() const {
  return count_of(shape).value_or(0);
}

bool TensorInfo::row_major() const {
  Index stride = 1;
  for (std::size_t d = shape.size(); d-- > 0; stride *= shape[d])
    if (shape[d] != 1 && strides[d] != stride && count() > 0) return false;
  return true;
}

TensorFile::TensorFile(std::string path, std::vector<MappedFile> files,
                       std::vector<TensorInfo> tensors, std::map<std::string, std::string> metadata)
    : path_(std::move(path)),
      files_(std::move(files)),
      tensors_(std::move(tensors)),
      metadata_(std::move(metadata)),
      by_name_(tensors_.size()) {
  std::iota(by_name_.begin(), by_name_.end(), 0u);
  const auto name = [this](std::uint32_t place) -> const std::string& {
    return tensors_[place].name;
  };
  std::sort(by_name_.begin(), by_name_.end(),
            [&](std::uint32_t a, std::uint32_t b) { return name(a) < name(b); });
  const auto twice =
      std::adjacent_find(by_name_.begin(), by_name_.end(),
                         [&](std::uint32_t a, std::uint32_t b) { return name(a) == name(b); });
  if (twice != by_name_.end())
    fail(path_, ": tensor ", in_quotes(name(*twice)), " is there twice; expected each name once");
}

std::vector<std::string> TensorFile::names() const {
  std::vector<std::string> all;
  all.reserve(tensors_.size());
  for (const TensorInfo& tensor : tensors_) all.push_back(tensor.name);
  return all;
}

const TensorInfo* TensorFile::find(std::string_view name) const {
  const auto place = std::lower_bound(
      by_name_.begin(), by_name_.end(), name,
      [this](std::uint32_t p, std::string_view wanted) { return tensors_[p].name < wanted; });
  if (place == by_name_.end() || tensors_[*place].name != name) return nullptr;
  return &tensors_[*place];
}

const TensorInfo& TensorFile::at(std::string_view name) const {
  const TensorInfo* tensor = find(name);
  if (tensor == nullptr)
    fail(path_, ": found no tensor ", in_quotes(name), " among ", tensors_.size(),
         "; expected it to be there");
  return *tensor;
}

void TensorFile::read(std::string_view name, View to) const {
  const TensorInfo& tensor = at(name);
  if (!convertible(tensor.type, to.dtype) || !flattens_to(tensor.shape, to.rows, to.cols))
    fail(path_, ": tensor ", in_quotes(name), ": found ", name_of(tensor.type),
         text_of_shape(tensor.shape), "; expected what can be read as ", shape_of(to));
  const Index count = tensor.count();
  if (count == 0) return;
  if (to.stride == to.cols) to = {to.data, 1, count, count, to.dtype};
  const bool row_major = tensor.row_major();
  const int threads = count >= kThreadedElements ? kThreads : 1;
  if (threads > 1 && row_major) map_pages(tensor.data, count * size_of(tensor.type));
  const Index pieces = (count + kPiece - 1) / kPiece;
  std::atomic<bool> inside = true;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (Index p = 0; p < pieces; ++p)
    if (!read_piece(tensor, row_major, to, p * kPiece, std::min(kPiece, count - p * kPiece)))
      inside = false;
  if (!inside)
    fail(path_, ": tensor ", in_quotes(name), ": found ", name_of(tensor.type),
         " values that do not fit i32; expected values of 32 bits");
}

void TensorFile::each_piece(std::string_view name,
                            const std::function<void(std::span<const std::byte>)>& piece) const {
  const TensorInfo& tensor = at(name);
  const Index count = tensor.count(), size = size_of(tensor.type);
  if (tensor.row_major()) {
    if (count > 0) piece({tensor.data, static_cast<std::size_t>(count * size)});
    return;
  }
  std::vector<std::byte> gathered(static_cast<std::size_t>(kPiece * size));
  for (Index first = 0; first < count; first += kPiece) {
    const Index length = std::min(kPiece, count - first);
    gather(tensor, first, length, gathered.data());
    piece({gathered.data(), static_cast<std::size_t>(length * size)});
  }
}

TensorFile open_model_tensors(const std::string& folder) {
  const std::filesystem::path path(folder);
  const auto file = [&](const char* name) { return (path / name).string(); };
  if (const auto whole = file("model.safetensors"); exists(whole)) return open_safetensors(whole);
  if (const auto index = file("model.safetensors.index.json"); exists(index))
    return open_sharded_safetensors(index);
  if (const auto last = last_iteration(folder); !last.empty()) return open_pth(file(last.c_str()));
  if (const auto torch = file("pytorch_model.bin"); exists(torch)) return open_pth(torch);
  fail(folder, ": found no weights; expected model.safetensors, model.safetensors.index.json, ",
       "iter-*.pth or pytorch_model.bin");
}

}  // namespace samba
