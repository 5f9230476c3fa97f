#include "cli/interrupt.h"

#include <unistd.h>

#include <csignal>

namespace samba {
namespace {

volatile std::sig_atomic_t seen = 0;

void remember(int signal) {
  seen = 1;
  std::signal(signal, SIG_DFL);
}

void leave(int) {
  _exit(130);
}

}  // namespace

void leave_on_interrupt() {
  std::signal(SIGINT, leave);
  std::signal(SIGTERM, leave);
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe is an error of the write, not a silent death
  std::signal(SIGXFSZ, SIG_IGN);  // so is a file-size limit
}

void watch_interrupts() {
  std::signal(SIGINT, remember);
  std::signal(SIGTERM, remember);
}

bool interrupted() {
  return seen != 0;
}

}  // namespace samba
