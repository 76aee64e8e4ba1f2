// SPDX-License-Identifier: MIT
#include "client/cpp/client.h"

#include <grpcpp/channel.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cpp/stream.h"

namespace lstm::client {
namespace {

constexpr int kKeepaliveMs = 20'000;
constexpr int kKeepaliveTimeoutMs = 10'000;
constexpr int kLargestAnswer = 64 << 20;  // the server bounds its answers; this bounds a server

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

}  // namespace

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(const ConnectOptions& options) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);  // else a dead host is never noticed
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection of its own for every client
  arguments.SetMaxReceiveMessageSize(kLargestAnswer);
  std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
  if (!options.tls_ca.empty()) {
    credentials = grpc::SslCredentials({options.tls_ca, options.tls_key, options.tls_cert});
  } else if (!options.tls_cert.empty()) {
    return absl::InvalidArgumentError("a client certificate needs the server's CA too");
  }
  auto channel = grpc::CreateCustomChannel(options.address, credentials, arguments);
  const auto until = std::chrono::system_clock::now() + absl::ToChronoMilliseconds(options.timeout);
  if (!channel->WaitForConnected(until)) {
    return absl::UnavailableError(absl::StrCat("no answer from ", options.address, " within ", absl::FormatDuration(options.timeout),
                                               "; is lstm-server running there, and is TLS set on both sides or on neither?"));
  }
  return std::unique_ptr<Client>(new Client(options, std::move(channel)));
}

Client::Client(const ConnectOptions& options, std::shared_ptr<grpc::Channel> channel)
    : options_(options), channel_(std::move(channel)), stub_(v1::Prediction::NewStub(channel_)) {}

void Client::Prepare(grpc::ClientContext& context, bool with_deadline) const {
  if (with_deadline) context.set_deadline(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(options_.timeout));
  if (!options_.token.empty()) context.AddMetadata("authorization", absl::StrCat("Bearer ", options_.token));
}

template <typename Method, typename Request, typename Response>
absl::Status Client::Call(Method method, const Request& request, Response* response) {
  grpc::ClientContext context;
  Prepare(context, true);
  return FromGrpc((stub_.get()->*method)(&context, request, response));
}

absl::StatusOr<std::vector<v1::ModelInfo>> Client::ListModels() {
  v1::ListModelsResponse response;
  const absl::Status status = Call(&v1::Prediction::Stub::ListModels, v1::ListModelsRequest(), &response);
  if (!status.ok()) return status;
  return std::vector<v1::ModelInfo>(response.models().begin(), response.models().end());
}

absl::StatusOr<v1::ModelInfo> Client::GetModel(const std::string& name, const std::string& version) {
  v1::GetModelRequest request;
  request.set_name(name);
  request.set_version(version);
  v1::GetModelResponse response;
  const absl::Status status = Call(&v1::Prediction::Stub::GetModel, request, &response);
  if (!status.ok()) return status;
  return std::move(*response.mutable_model());
}

absl::StatusOr<v1::PredictResponse> Client::Predict(const v1::PredictRequest& request) {
  v1::PredictResponse response;
  const absl::Status status = Call(&v1::Prediction::Stub::Predict, request, &response);
  if (!status.ok()) return status;
  return response;
}

absl::StatusOr<v1::ListSessionsResponse> Client::ListSessions(const std::string& model) {
  v1::ListSessionsRequest request;
  request.set_model(model);
  v1::ListSessionsResponse response;
  const absl::Status status = Call(&v1::Prediction::Stub::ListSessions, request, &response);
  if (!status.ok()) return status;
  return response;
}

absl::Status Client::CloseSession(const std::string& session_id) {
  v1::CloseSessionRequest request;
  request.set_session_id(session_id);
  v1::CloseSessionResponse response;
  return Call(&v1::Prediction::Stub::CloseSession, request, &response);
}

absl::StatusOr<std::unique_ptr<Stream>> Client::OpenStream() {
  auto context = std::make_unique<grpc::ClientContext>();
  Prepare(*context, false);  // a stream lives for hours: its waits are bounded one by one
  return Stream::Start(stub_.get(), std::move(context));
}

}  // namespace lstm::client
