#include "model/config.h"

#include "model/folder.h"
#include "support/target.h"

using namespace samba;

namespace {

constexpr std::size_t kMostRewritten = 8;  // layers; more take time and show nothing new

/// What `info`, `verify` and `convert` ask before anything is allocated.
void use(const Layout& layout) {
  Stream stream(1, Tier::plain);
  const Model model(layout.config, stream, DType::bf16);
  model.parameter_count();
  model.state_bytes(layout.config.context);
  model.flops(0, layout.config.context);
  const WeightNames names(layout, model);
  for (const std::string& tensor : names.tensors()) names.shape(tensor);
  if (layout.config.layers.size() > kMostRewritten) return;
  for (const std::string& kind : layout_kinds())
    fuzz::attempt([&] { published_config(layout.config, kind); });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::attempt(
      [&] { use(layout_of(parse_json(fuzz::text_of(data, size), "config.json"), "config.json")); });
  return 0;
}
