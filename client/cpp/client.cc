// SPDX-License-Identifier: MIT
#include "client/cpp/client.h"

#include <grpcpp/channel.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>
#include <openssl/crypto.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cpp/nonce.h"
#include "client/cpp/session_log.h"
#include "client/cpp/stream.h"

namespace lstm::client {
namespace {

// gRPC's own would grow to minutes, while a server is restarted. An attempt that is refused costs next to nothing, and the
// last pause is what a client may be late by when the server is there again.
constexpr int kFirstBackoffMs = 50, kLastBackoffMs = 250;
constexpr int kConnectMs = 5000;  // that one attempt may last, TLS and distance included: gRPC calls it the least backoff
constexpr int kLargestAnswer = 64 << 20;  // the server bounds its answers; this bounds a server

constexpr absl::Duration kRepeatPause = absl::Milliseconds(100);
constexpr std::chrono::milliseconds kSlice(200);

absl::Status FromGrpc(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

}  // namespace

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(const ConnectOptions& options) {
  grpc::ChannelArguments arguments;
  const int keepalive_ms = static_cast<int>(std::clamp<int64_t>(absl::ToInt64Milliseconds(options.keepalive), 2, 1 << 30));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, keepalive_ms);  // else a dead host is never noticed
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, keepalive_ms / 2);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection of its own for every client
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kFirstBackoffMs);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectMs);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kLastBackoffMs);
  arguments.SetMaxReceiveMessageSize(kLargestAnswer);
  std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
  if (!options.tls_ca.empty()) {
    // Else OpenSSL is cleaned up when the process exits, under a thread of gRPC's that may be shaking hands.
    OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT, nullptr);
    credentials = grpc::SslCredentials({options.tls_ca, options.tls_key, options.tls_cert});
  } else if (!options.tls_cert.empty()) {
    return absl::InvalidArgumentError("a client certificate needs the server's CA too");
  }
  auto channel = grpc::CreateCustomChannel(options.address, credentials, arguments);
  const auto until = std::chrono::system_clock::now() + absl::ToChronoMilliseconds(options.timeout);
  // Asked anew in slices: where a connection is made and lost at once gRPC's channel stays idle, and a single wait would see
  // nothing but its deadline.
  bool connected = false;
  do {
    connected = channel->WaitForConnected(std::min(until, std::chrono::system_clock::now() + kSlice));
  } while (!connected && std::chrono::system_clock::now() < until);
  if (!connected) {
    return absl::UnavailableError(absl::StrCat("no answer from ", options.address, " within ", absl::FormatDuration(options.timeout),
                                               "; is lstm-server running there, and is TLS set on both sides or on neither?"));
  }
  ConnectOptions own = options;
  if (own.affinity.empty()) own.affinity = absl::BytesToHexString(Nonce());
  return std::unique_ptr<Client>(new Client(own, std::move(channel)));
}

Client::Client(const ConnectOptions& options, std::shared_ptr<grpc::Channel> channel)
    : options_(options), channel_(std::move(channel)), stub_(v1::Prediction::NewStub(channel_)) {}

void Client::Prepare(grpc::ClientContext& context, bool with_deadline) const {
  if (with_deadline) context.set_deadline(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(options_.timeout));
  context.AddMetadata("lstm-affinity", options_.affinity);
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

// Of calls that may be carried out twice.
template <typename Method, typename Request, typename Response>
absl::Status Client::CallAgain(Method method, const Request& request, Response* response) {
  const absl::Time until = absl::Now() + options_.timeout;
  absl::Status status = Call(method, request, response);
  while (absl::IsUnavailable(status) && absl::Now() + kRepeatPause < until) {
    absl::SleepFor(kRepeatPause);
    status = Call(method, request, response);
  }
  return status;
}

// Fork and Import: the nonce makes it safe to repeat them.
template <typename Method, typename Request, typename Response>
absl::StatusOr<std::string> Client::CallForSession(Method method, const Request& request, bool accept_value_equal, Response* response) {
  const absl::Status status = CallAgain(method, request, response);
  if (!status.ok()) return status;
  v1::Resume handle;
  handle.set_session_id(response->session_id());
  handle.set_resume_token(response->resume_token());
  handle.set_have_seq(response->applied_seq());
  handle.set_have_digest(response->state_digest());
  handle.set_accept_value_equal(accept_value_equal);
  return handle.SerializeAsString();
}

absl::StatusOr<std::string> Client::Fork(const std::string& handle) {
  const auto session = SessionLog::Parse(handle);
  if (!session.ok()) return session.status();
  v1::ForkSessionRequest request;
  request.set_session_id(session->session_id());
  request.set_resume_token(session->resume_token());
  request.set_at_seq(session->have_seq());
  request.set_client_nonce(Nonce());
  v1::ForkSessionResponse response;
  return CallForSession(&v1::Prediction::Stub::ForkSession, request, session->accept_value_equal(), &response);
}

absl::StatusOr<std::string> Client::Export(const std::string& handle) {
  const auto session = SessionLog::Parse(handle);
  if (!session.ok()) return session.status();
  v1::ExportSessionRequest request;
  request.set_session_id(session->session_id());
  request.set_resume_token(session->resume_token());
  request.set_at_seq(session->have_seq());
  v1::ExportSessionResponse response;
  const absl::Status status = CallAgain(&v1::Prediction::Stub::ExportSession, request, &response);
  if (!status.ok()) return status;
  return std::move(*response.mutable_blob());
}

absl::StatusOr<std::string> Client::Import(const std::string& blob, const ImportOptions& options) {
  v1::ImportSessionRequest request;
  request.set_blob(blob);
  request.set_client_nonce(Nonce());
  request.set_accept_value_equal(options.accept_value_equal);
  request.set_durability(options.durability);
  v1::ImportSessionResponse response;
  return CallForSession(&v1::Prediction::Stub::ImportSession, request, options.accept_value_equal, &response);
}

absl::StatusOr<std::unique_ptr<Stream>> Client::OpenStream() {
  Stream::Wiring wiring;
  wiring.channel = channel_;
  wiring.stub = stub_.get();
  wiring.context = [this] {
    auto context = std::make_unique<grpc::ClientContext>();
    Prepare(*context, false);  // a stream lives for hours: its waits are bounded one by one
    return context;
  };
  wiring.reconnect_timeout = options_.reconnect_timeout;
  wiring.keep_turns = options_.keep_turns;
  wiring.on_event = options_.on_event;
  return Stream::Start(std::move(wiring));
}

}  // namespace lstm::client
