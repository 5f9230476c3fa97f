#include "model/safetensors.h"

#include "support/memory_file.h"
#include "support/target.h"
#include "support/use.h"

using namespace samba;

// The input is a file of tensors, or the index of a set of them.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static fuzz::MemoryFile file;
  const std::string& path = file.write(data, size);
  if (fuzz::text_of(data, size).starts_with('{'))
    fuzz::attempt([&] { fuzz::use(open_sharded_safetensors(path)); });
  else
    fuzz::attempt([&] { fuzz::use(open_safetensors(path)); });
  return 0;
}
