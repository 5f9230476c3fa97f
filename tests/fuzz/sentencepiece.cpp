#include "support/target.h"
#include "support/use.h"
#include "text/sentencepiece_model.h"

using namespace samba;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string bytes(fuzz::text_of(data, size));
  fuzz::attempt([&] {
    fuzz::use(*sentencepiece_model({"tokenizer.model", "tokenizer.model", bytes}, {}),
              bytes.substr(0, 256));
  });
  return 0;
}
