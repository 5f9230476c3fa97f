#include "model/pth.h"

#include "support/memory_file.h"
#include "support/target.h"
#include "support/use.h"

using namespace samba;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static fuzz::MemoryFile file;
  fuzz::attempt([&] { fuzz::use(open_pth(file.write(data, size))); });
  return 0;
}
