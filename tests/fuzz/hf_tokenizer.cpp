#include "text/hf_tokenizer.h"

#include "support/target.h"
#include "support/use.h"

using namespace samba;

// The input is a tokenizer.json, or one and, behind a byte 0, the tokenizer_config.json beside it.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view whole = fuzz::text_of(data, size);
  const std::size_t end = whole.find('\0');
  fuzz::attempt([&] {
    TokenizerConfig config;
    if (end != whole.npos) config = parse_tokenizer_config(whole.substr(end + 1), kTokenizerConfig);
    const std::string json(whole.substr(0, end));
    fuzz::use(*hf_tokenizer({"tokenizer.json", "tokenizer.json", json}, config),
              whole.substr(0, 256));
  });
  return 0;
}
