// SPDX-License-Identifier: MIT
#include "server/rpc/status_mapping.h"

#include <string>

namespace lstm::server {

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  return {static_cast<grpc::StatusCode>(status.code()), std::string(status.message()).substr(0, 1024)};
}

}  // namespace lstm::server
