#include "cli/interrupt.h"

#include <unistd.h>

#include <csignal>
#include <ctime>

namespace samba {
namespace {

/// `timeout` sends its signal to a process and again to its group: both are one interrupt.
constexpr double kSameSeconds = 0.5;

volatile std::sig_atomic_t seen = 0;
volatile double first_seconds = 0;

void remember(int signal) {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  const double seconds = static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
  if (seen == 0) {
    seen = 1;
    first_seconds = seconds;
  } else if (seconds - first_seconds > kSameSeconds) {
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
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
