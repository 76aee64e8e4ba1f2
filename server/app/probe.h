// SPDX-License-Identifier: MIT
#pragma once

#include "absl/status/status.h"
#include "server/app/options.h"

namespace lstm::server {

// Asks the server that runs on this machine with these settings (its first --listen, its TLS) for its gRPC health: what a
// container's health check calls. It knows the flags, environment and config file that it was given itself, not those of the
// server. OK where it serves; UNAVAILABLE says what came instead, INVALID_ARGUMENT why it cannot be asked. At most 3 s.
absl::Status Probe(const ServerOptions& options);

}  // namespace lstm::server
