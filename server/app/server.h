// SPDX-License-Identifier: MIT
#pragma once

#include "server/app/options.h"

namespace lstm::server {

// Loads the models, serves until SIGTERM or SIGINT, drains, and returns the exit code: 0 after a clean end, 1 where the
// server could not start. Blocks. To be called once, from main, before any other thread is started.
int RunServer(const ServerOptions& options);

}  // namespace lstm::server
