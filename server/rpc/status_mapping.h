// SPDX-License-Identifier: MIT
#pragma once

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace lstm::server {

// The one place where our errors become gRPC's: the codes have the same numbers, the message is cut at 1 KB.
grpc::Status ToGrpc(const absl::Status& status);

}  // namespace lstm::server
