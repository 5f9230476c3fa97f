#include "model/llama2c.h"

#include <array>
#include <cstdint>
#include <cstring>

#include "core/error.h"
#include "core/fields.h"
#include "model/layouts/builder.h"

namespace samba {
namespace {

struct Header {
  Index d, d_ff, layers, heads, kv_heads, vocab, context;
  bool tied;

  Index width() const { return d / heads; }
  Index kv() const { return kv_heads * width(); }
};

constexpr std::size_t kHeaderBytes = 7 * sizeof(std::int32_t);

Header read_header(const MappedFile& file) {
  std::array<std::int32_t, 7> n{};
  if (file.bytes().size() < kHeaderBytes)
    fail(file.path(), ": expected a llama2.c checkpoint of ", kHeaderBytes,
         " bytes or more, found ", file.bytes().size());
  std::memcpy(n.data(), file.bytes().data(), kHeaderBytes);
  const Header h{n[0], n[1], n[2], n[3], n[4], std::abs(Index{n[5]}), n[6], n[5] > 0};
  const std::pair<const char*, Index> sizes[] = {
      {"dim", h.d},          {"hidden_dim", h.d_ff},     {"n_layers", h.layers},
      {"n_heads", h.heads},  {"n_kv_heads", h.kv_heads}, {"vocab_size", h.vocab},
      {"seq_len", h.context}};
  for (const auto& [name, size] : sizes) expect_size(file.path(), name, size);
  if (h.d % h.heads != 0 || h.width() % 2 != 0 || h.heads % h.kv_heads != 0)
    fail(file.path(), ": expected heads of an even width that divide dim = ", h.d,
         " and are a multiple of n_kv_heads = ", h.kv_heads, ", found ", h.heads);
  constexpr Index kMostLayers = 1024;
  if (h.layers > kMostLayers)
    fail(file.path(), ": n_layers: expected at most ", kMostLayers, ", found ", h.layers);
  return h;
}

std::string layer_name(Index layer, const char* name) {
  return text_of("layers.", layer, '.', name, ".weight");
}

/// Maps rows of heads that are rotated in pairs onto heads that are rotated in halves.
void rotated(Builder& b, const std::string& tensor, Index first, Index heads, Index width) {
  for (Index h = 0; h < heads; ++h)
    for (Index i = 0; i < width; ++i)
      b.rows_of(tensor, h * width + i, "qkv.weight",
                first + h * width + i % 2 * (width / 2) + i / 2, 1);
}

}  // namespace

bool is_llama2c(const std::string& path) {
  return path.ends_with(".bin") && exists(path) && !is_folder(path);
}

Layout llama2c_layout(const std::string& path) {
  const Header h = read_header(MappedFile(path));
  Layout layout;
  layout.kind = "llama2c";
  ModelConfig& c = layout.config;
  c.name = "llama2c";
  c.place = path;
  c.vocab = h.vocab;
  c.d_model = h.d;
  c.context = h.context;
  c.norm_eps = 1e-5;
  c.tied = h.tied;
  c.init = "neox";
  Builder b(layout);
  for (Index i = 0; i < h.layers; ++i) {
    b.step({{"type", "attention"},
            {"heads", h.heads},
            {"kv_heads", h.kv_heads},
            {"head_width", h.width()}},
           layer_name(i, "attention_norm"));
    rotated(b, layer_name(i, "attention.wq"), 0, h.heads, h.width());
    rotated(b, layer_name(i, "attention.wk"), h.d, h.kv_heads, h.width());
    b.rows_of(layer_name(i, "attention.wv"), 0, "qkv.weight", h.d + h.kv(), h.kv());
    b.whole(layer_name(i, "attention.wo"), "out.weight", h.d);
    b.swiglu(layer_name(i, "ffn_norm"), h.d_ff, h.d, layer_name(i, "feed_forward.w1"),
             layer_name(i, "feed_forward.w3"), layer_name(i, "feed_forward.w2"));
  }
  b.ends("tok_embeddings.weight", "norm.weight", "output.weight");
  return layout;
}

TensorFile open_llama2c(const std::string& path) {
  MappedFile file(path);
  const Header h = read_header(file);
  std::vector<TensorInfo> tensors;
  // Sizes are at most 2^24, layers 10^4: no product of three leaves 64 bits once it fits the file.
  const auto most = static_cast<Index>(file.bytes().size());
  Index place = kHeaderBytes;
  const auto take = [&](const std::string& name, std::vector<Index> shape) {
    const Index count = count_of(shape).value_or(most);
    if (count > (most - place) / 4)
      fail(path, ": expected tensor ", in_quotes(name), text_of_shape(shape), " at byte ", place,
           ", found a file of ", most, " bytes");
    if (!name.empty())
      tensors.push_back(
          {name, StoredType::f32, shape, row_major_strides(shape), file.bytes().data() + place});
    place += 4 * count;
  };
  const auto each = [&](const char* name, const std::vector<Index>& shape) {
    for (Index i = 0; i < h.layers; ++i) take(layer_name(i, name), shape);
  };
  take("tok_embeddings.weight", {h.vocab, h.d});
  each("attention_norm", {h.d});
  each("attention.wq", {h.d, h.d});
  each("attention.wk", {h.kv(), h.d});
  each("attention.wv", {h.kv(), h.d});
  each("attention.wo", {h.d, h.d});
  each("ffn_norm", {h.d});
  each("feed_forward.w1", {h.d_ff, h.d});
  each("feed_forward.w2", {h.d, h.d_ff});
  each("feed_forward.w3", {h.d_ff, h.d});
  take("norm.weight", {h.d});
  take("", {h.context, h.width()});  // tables of the rotation
  if (!h.tied) take("output.weight", {h.vocab, h.d});
  if (place != most) fail(path, ": expected ", place, " bytes by its header, found ", most);
  std::vector<MappedFile> files;
  files.push_back(std::move(file));
  return TensorFile(path, std::move(files), std::move(tensors));
}

}  // namespace samba
