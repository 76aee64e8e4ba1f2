// SPDX-License-Identifier: MIT
#include "server/rpc/principal.h"

#include <grpcpp/security/auth_context.h>
#include <openssl/sha.h>

#include <array>

namespace lstm::server {

std::string PrincipalOf(const grpc::ServerContext& context) {
  const auto auth = context.auth_context();
  if (!auth || !auth->IsPeerAuthenticated()) return "";
  std::string names;
  for (const grpc::string_ref& name : auth->GetPeerIdentity()) names.append(name.data(), name.size()).push_back('\0');
  if (names.empty()) return "";
  std::array<unsigned char, SHA256_DIGEST_LENGTH> hash;
  SHA256(reinterpret_cast<const unsigned char*>(names.data()), names.size(), hash.data());
  return std::string(hash.begin(), hash.end());
}

}  // namespace lstm::server
