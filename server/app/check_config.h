// SPDX-License-Identifier: MIT
#pragma once

#include <ostream>

#include "server/app/options.h"

namespace lstm::server {

// Checks the settings and all that they name, as far as that goes without listening, writing, or touching what a server that
// runs holds: whether the state directory is in use, or a port, is not asked. Models are loaded and tried. `out` gets what would
// be served, `faults` a line for each fault. True: there is none.
bool CheckConfig(const ServerOptions& options, std::ostream& out, std::ostream& faults);

}  // namespace lstm::server
