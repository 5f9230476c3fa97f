#include "cli/command.h"
#include "core/stream.h"

int main(int argc, char** argv) {
  samba::limit_spinning(argv);
  return samba::run_program({argv + 1, argv + argc});
}
