#include <cstdlib>

#include "cli/command.h"

namespace {

/// A thread that waits for the others spins before it sleeps. libgomp's own limit, about a
/// millisecond, is lost at every barrier where other programs use the cores too: generation was
/// several times slower beside a compiler. This one, some tens of microseconds, still outlasts the
/// gaps between kernels. Who sets OMP_WAIT_POLICY or GOMP_SPINCOUNT is left alone.
void limit_spinning(int /*count*/, char** /*words*/, char** /*environment*/) {
  if (std::getenv("OMP_WAIT_POLICY") == nullptr) setenv("GOMP_SPINCOUNT", "3000", /*overwrite=*/0);
}

// libgomp reads its limit when it is loaded, before main and every constructor of ours, but after
// this.
[[gnu::section(".preinit_array"),
  gnu::used]] void (*const kBeforeLibraries)(int, char**, char**) = limit_spinning;

}  // namespace

int main(int argc, char** argv) {
  return samba::run_program({argv + 1, argv + argc});
}
