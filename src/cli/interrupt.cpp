#include "cli/interrupt.h"

#include <csignal>

namespace samba {
namespace {

volatile std::sig_atomic_t seen = 0;

void remember(int signal) {
  seen = 1;
  std::signal(signal, SIG_DFL);
}

}  // namespace

void watch_interrupts() {
  std::signal(SIGINT, remember);
  std::signal(SIGTERM, remember);
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe is an error of the write, not a silent death
  std::signal(SIGXFSZ, SIG_IGN);  // so is a file-size limit
}

bool interrupted() { return seen != 0; }

}  // namespace samba
