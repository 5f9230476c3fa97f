#pragma once

#include <string>

#include "model/folder.h"

namespace samba {

/// The option --self-extend, in the commands that have it.
constexpr const char* kSelfExtendHelp =
    "GROUP:WINDOW, as 4:1024: full attention reads beyond its training length, distant tokens in "
    "groups that share a position, the last WINDOW at their own; empty: off";

/// Does what the option's text asks for; nothing where it is empty.
void apply_self_extend(ModelSource&, const std::string& text);

}  // namespace samba
