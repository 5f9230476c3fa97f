#pragma once

namespace samba {

/// Thrown where work stops for Ctrl-C with nothing left to save; `main` exits 130.
struct Interrupted {};

/// From now on the first Ctrl-C (SIGINT) or SIGTERM is remembered, and the second ends the process.
void watch_interrupts();
/// Whether one has come.
bool interrupted();

}  // namespace samba
