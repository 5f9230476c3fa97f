#include "support/use.h"

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "support/target.h"

namespace samba::fuzz {
namespace {

constexpr Index kMostElements = Index{1} << 20;
constexpr std::int32_t kMostTokens = 512;

/// As every pair of rows and columns that the shape can be read as, rows apart from each other.
void read(const TensorFile& file, const TensorInfo& tensor, DType dtype) {
  const Index count = tensor.count();
  for (std::size_t k = 0; k <= tensor.shape.size(); ++k) {
    const std::span<const Index> shape = tensor.shape;
    const Index rows = count_of(shape.first(k)).value_or(0);
    const Index cols = count_of(shape.subspan(k)).value_or(0);
    const Index gap =
        count > 0 ? static_cast<Index>(k % 2) : 0;  // an empty tensor may have any rows
    std::vector<std::byte> to(static_cast<std::size_t>((count + gap * rows) * size_of(dtype)));
    attempt([&] { file.read(tensor.name, {to.data(), rows, cols, cols + gap, dtype}); });
  }
}

/// The tokens one behind the other: a text that the vocabulary is made for.
std::string text_of_tokens(const TokenModel& model) {
  std::string text;
  for (std::int32_t id = 0; id < std::min(model.vocabulary(), kMostTokens); ++id)
    text += model.token(id);
  return text.substr(0, 1024);
}

void encode_and_decode(const TokenModel& model, WordTable& words, std::string_view text) {
  std::vector<std::int32_t> ids, fast;
  model.encode(text, nullptr, ids);
  if (model.cuts()) {
    model.encode(text, &words, fast);
    if (fast != ids) std::abort();
  }
  model.encode_marked(text, ids);
  const auto decoder = model.decoder();
  for (const std::int32_t id : ids) decoder->push(id);
  decoder->flush();
}

}  // namespace

void use(const TensorFile& file) {
  Index left = kMostElements;
  for (const TensorInfo& tensor : file.tensors()) {
    left -= tensor.count() + 1;
    if (left < 0) return;
    std::size_t sum = 0;
    file.each_piece(tensor.name, [&](std::span<const std::byte> piece) {
      for (const std::byte byte : piece) sum += static_cast<std::size_t>(byte);
    });
    if (sum > static_cast<std::size_t>(kMostElements) * 8 * 255) std::abort();
    for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::i32})
      read(file, tensor, dtype);
  }
}

void use(const TokenModel& model, std::string_view text) {
  WordTable words;
  const std::string tokens = text_of_tokens(model);
  for (const std::string_view each :
       {std::string_view("Hello  world, don't\n\n  stop: 1234567 times!\r\n\t"),
        std::string_view("\u00e9e\u0301\u2581\u4f60\u597d \U0001f469\u200d\U0001f680 \u00df\u1e9e"),
        std::string_view("\xff\xfe broken \xe2\x96"), text, std::string_view(tokens)})
    attempt([&] { encode_and_decode(model, words, each); });
  attempt([&] {
    const auto decoder = model.decoder();
    for (std::int32_t id = 0; id < std::min(model.vocabulary(), kMostTokens); ++id)
      decoder->push(id);
    decoder->flush();
  });
}

}  // namespace samba::fuzz
