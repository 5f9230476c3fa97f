#include "model/tensor_writer.h"

#include <algorithm>
#include <set>
#include <utility>

#include "core/error.h"
#include "core/files.h"
#include "core/json.h"
#include "model/tensors.h"

namespace samba {
namespace {

constexpr std::size_t kLongestHeader = 100'000'000;
constexpr std::size_t kAlignment = 8;
constexpr Index kPiece = 8192;  // elements converted at a time

/// The dtype whose elements are the bytes of the stored type, if a view can be written as it.
std::optional<DType> written_as(StoredType type) {
  switch (type) {
    case StoredType::f64: return DType::f64;
    case StoredType::f32: return DType::f32;
    case StoredType::bf16: return DType::bf16;
    case StoredType::i32:
    case StoredType::i64: return DType::i32;
    default: return std::nullopt;
  }
}

void put_values(StoredType type, ConstView values, const TensorWriter::Put& put) {
  const DType dtype = written_as(type).value();  // add() has refused types without one
  std::vector<std::byte> piece(static_cast<std::size_t>(kPiece * size_of(dtype)));
  std::vector<std::int64_t> wide(static_cast<std::size_t>(kPiece));
  for (Index r = 0; r < values.rows; ++r) {
    for (Index c = 0; c < values.cols; c += kPiece) {
      const Index count = std::min(kPiece, values.cols - c);
      const std::byte* from = values.data + (r * values.stride + c) * size_of(values.dtype);
      if (type == StoredType::i64) {
        const auto* ids = reinterpret_cast<const std::int32_t*>(from);
        std::copy(ids, ids + count, wide.begin());
        put(std::as_bytes(std::span(wide).first(static_cast<std::size_t>(count))));
      } else {
        convert(stored_type_of(values.dtype), from, dtype, piece.data(), count);
        put(std::span(piece).first(static_cast<std::size_t>(count * size_of(dtype))));
      }
    }
  }
}

std::string json_text(const std::string& text) {
  try {
    return Json(text).dump();
  } catch (const Json::exception&) {
    fail("safetensors: found ", in_quotes(text), "; expected UTF-8");
  }
}

}  // namespace

void TensorWriter::metadata(std::string key, std::string value) {
  metadata_.insert_or_assign(std::move(key), std::move(value));
}

void TensorWriter::add(std::string name, StoredType type, std::vector<Index> shape,
                       ConstView values) {
  const std::optional<DType> dtype = written_as(type);
  if (!dtype || !convertible(stored_type_of(values.dtype), *dtype) ||
      count_of(shape) != values.rows * values.cols)
    fail("safetensors: tensor ", in_quotes(name), ": found ", shape_of(values), "; expected ",
         name_of(type), text_of_shape(shape));
  add(std::move(name), type, std::move(shape),
      [type, values](const Put& put) { put_values(type, values, put); });
}

void TensorWriter::add(std::string name, ConstView values) {
  add(std::move(name), stored_type_of(values.dtype), {values.rows, values.cols}, values);
}

void TensorWriter::add(std::string name, StoredType type, std::vector<Index> shape,
                       std::function<void(const Put&)> fill) {
  const std::optional<Index> count = count_of(shape);
  Index bytes = 0;
  if (!count || __builtin_mul_overflow(*count, size_of(type), &bytes))
    fail("safetensors: tensor ", in_quotes(name), ": found shape ", text_of_shape(shape),
         "; expected one of less than 2^63 bytes");
  tensors_.push_back({std::move(name), type, std::move(shape), bytes, std::move(fill)});
}

void TensorWriter::Tensor::put_into(const std::string& path, const Put& put) const {
  Index written = 0;
  fill([&](std::span<const std::byte> piece) {
    written += static_cast<Index>(piece.size());
    if (written <= bytes) put(piece);
  });
  if (written != bytes)
    fail(path, ": tensor ", in_quotes(name), ": found ", written, " bytes to write; expected ",
         bytes);
}

void TensorWriter::expect_names_once() const {
  std::set<std::string_view> names{"__metadata__"};
  for (const Tensor& tensor : tensors_)
    if (!names.insert(tensor.name).second)
      samba::fail("found tensor ", in_quotes(tensor.name), " twice; expected each name once");
}

std::string TensorWriter::header() const {
  std::string text = "{";
  if (!metadata_.empty()) {
    for (const auto& [key, value] : metadata_) {
      text += text == "{" ? "\"__metadata__\":{" : ",";
      text += json_text(key) + ":" + json_text(value);
    }
    text += "}";
  }
  Index end = 0;
  for (const Tensor& tensor : tensors_) {
    const Index begin = end;
    if (__builtin_add_overflow(begin, tensor.bytes, &end))
      fail("safetensors: found tensors of 2^63 bytes and more; expected less");
    text += (text == "{" ? "" : ",") + json_text(tensor.name) + ":{\"dtype\":\"" +
            name_of(tensor.type) + "\",\"shape\":" + text_of_shape(tensor.shape) +
            ",\"data_offsets\":" + text_of_shape(std::vector{begin, end}) + "}";
  }
  text += "}";
  text.append((kAlignment - text.size() % kAlignment) % kAlignment, ' ');
  return text;
}

void TensorWriter::write_safetensors(const std::string& path) const {
  expect_names_once();
  const std::string text = header();
  if (text.size() > kLongestHeader)
    fail(path, ": found a header of ", text.size(), " bytes; expected ", kLongestHeader,
         " at most");
  AtomicFile file(path);
  const std::uint64_t length = text.size();
  file.write(&length, sizeof(length));
  file.write(text);
  for (const Tensor& tensor : tensors_)
    tensor.put_into(
        path, [&](std::span<const std::byte> bytes) { file.write(bytes.data(), bytes.size()); });
  file.commit();
}

}  // namespace samba
