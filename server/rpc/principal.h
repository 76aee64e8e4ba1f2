// SPDX-License-Identifier: MIT
#pragma once

#include <grpcpp/server_context.h>

#include <string>

namespace lstm::server {

// Who the client of a call proved to be by its certificate, as a SHA-256; empty: anonymous.
std::string PrincipalOf(const grpc::ServerContext& context);

}  // namespace lstm::server
