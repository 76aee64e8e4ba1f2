// SPDX-License-Identifier: MIT
#include "server/rpc/caller.h"

#include <grpcpp/security/auth_context.h>

namespace lstm::server {

absl::StatusOr<Caller> CallerOf(const grpc::ServerContext& context, const Callers& callers) {
  Callers::Shown shown;
  const auto [begin, end] = context.client_metadata().equal_range("authorization");
  for (auto it = begin; it != end; ++it) shown.authorization.emplace_back(it->second.data(), it->second.size());
  const auto auth = context.auth_context();
  if (auth && auth->IsPeerAuthenticated()) {
    for (const grpc::string_ref& name : auth->GetPeerIdentity()) shown.certificate.emplace_back(name.data(), name.size());
  }
  return callers.Find(shown);
}

}  // namespace lstm::server
