#pragma once

#include <string>
#include <vector>

#include "layers/registry.h"

namespace samba::test {

/// Fails the test unless the file `page`, docs/config.md or a copy, has a section of this heading
/// in which every name begins a row of a table.
void expect_rows(const std::string& page, const std::string& heading,
                 const std::vector<std::string>& names);

/// Every key of the type's examples once they are completed. A key without a default counts where
/// an example gives it.
std::vector<std::string> keys_of(const LayerType&);

/// expect_rows of the section of a layer.
void expect_section(const std::string& page, const LayerType&);

}  // namespace samba::test
