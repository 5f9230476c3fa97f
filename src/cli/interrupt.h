#pragma once

namespace samba {

/// Thrown where work stops for Ctrl-C with nothing left to save; `main` exits 130.
struct Interrupted {};

/// From now on Ctrl-C (SIGINT) and SIGTERM end the process at once with exit code 130: right where
/// nothing is being made.
void leave_on_interrupt();
/// From now on the first of them is remembered; another, more than half a second later, ends the
/// process.
void watch_interrupts();
/// Whether one has come.
bool interrupted();

}  // namespace samba
