// SPDX-License-Identifier: MIT
#pragma once

#include <grpcpp/server_context.h>

#include "absl/status/statusor.h"
#include "server/auth/callers.h"

namespace lstm::server {

// Whose call it is, by its token or by the certificate of its connection. UNAUTHENTICATED where callers must be known.
absl::StatusOr<Caller> CallerOf(const grpc::ServerContext& context, const Callers& callers);

}  // namespace lstm::server
