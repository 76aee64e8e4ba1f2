// SPDX-License-Identifier: MIT
#include "server/app/probe.h"

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_certificate_verifier.h>
#include <grpcpp/security/tls_credentials_options.h>
#include <grpcpp/support/byte_buffer.h>

#include <chrono>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace lstm::server {
namespace {

constexpr std::chrono::seconds kPatience(3);
// grpc.health.v1.HealthCheckResponse with status (field 1) SERVING (1): two bytes, so the schema is not needed.
constexpr char kServing[] = "\x08\x01";

std::string Read(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// This machine's own address, where the server listens on all.
std::string Reachable(const std::string& address) {
  if (absl::StartsWith(address, "0.0.0.0:")) return absl::StrCat("127.0.0.1:", address.substr(8));
  if (absl::StartsWith(address, "[::]:")) return absl::StrCat("[::1]:", address.substr(5));
  return address;
}

// With the server's own certificate as ours, and whatever name it has: it is this machine that is asked.
std::shared_ptr<grpc::ChannelCredentials> Credentials(const ServerOptions& o) {
  namespace experimental = grpc::experimental;
  if (o.tls_cert.empty()) return grpc::InsecureChannelCredentials();
  const std::string cert = Read(o.tls_cert), key = Read(o.tls_key);
  experimental::TlsChannelCredentialsOptions tls;
  tls.set_certificate_provider(std::make_shared<experimental::StaticDataCertificateProvider>(
      cert, std::vector<experimental::IdentityKeyCertPair>{{key, cert}}));
  tls.watch_root_certs();
  tls.watch_identity_key_cert_pairs();
  tls.set_verify_server_certs(false);
  tls.set_check_call_host(false);
  tls.set_certificate_verifier(std::make_shared<experimental::NoOpCertificateVerifier>());
  return experimental::TlsCredentials(tls);
}

}  // namespace

absl::Status Probe(const ServerOptions& options) {
  if (options.listen.empty()) return absl::InvalidArgumentError("--listen is empty, expected HOST:PORT or unix:PATH");
  const std::string address = Reachable(options.listen.front());
  if (absl::EndsWith(address, ":0")) return absl::InvalidArgumentError(absl::StrCat("--listen is '", address, "': the port that was taken is not known"));
  const auto until = std::chrono::system_clock::now() + kPatience;
  grpc::GenericStub stub(grpc::CreateChannel(address, Credentials(options)));
  grpc::ClientContext context;
  context.set_deadline(until);
  grpc::CompletionQueue queue;
  const grpc::Slice nothing;
  const auto call = stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", grpc::ByteBuffer(&nothing, 1), &queue);
  grpc::ByteBuffer response;
  grpc::Status status;
  call->StartCall();
  call->Finish(&response, &status, &status);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  if (!status.ok()) return absl::UnavailableError(absl::StrCat("no health from ", address, ": ", status.error_message()));
  grpc::Slice answer;
  if (!response.DumpToSingleSlice(&answer).ok() || std::string(answer.begin(), answer.end()) != kServing) {
    return absl::UnavailableError(absl::StrCat("the server at ", address, " is not serving"));
  }
  return absl::OkStatus();
}

}  // namespace lstm::server
