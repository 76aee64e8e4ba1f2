// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "lstm/v1/prediction.grpc.pb.h"

namespace lstm::client {

class Stream;
struct StreamEvent;

struct ConnectOptions {
  std::string address;                // HOST:PORT or unix:PATH
  std::string tls_ca;                 // PEM text of the CA that signed the server's certificate; empty: plain text
  std::string tls_cert, tls_key;      // PEM text of our own certificate, where the server demands one
  std::string token;                  // sent as "authorization: Bearer ..."
  // Sent as "lstm-affinity" with every call, so that a proxy which hashes it gives all of them to one server: a session is
  // resumed where it is. Empty: a random value of this client's own. Whoever picks a saved session up brings the saver's.
  std::string affinity;
  absl::Duration timeout = absl::Seconds(10);  // of connecting and of every unary call
  // How long a stream tries to get back to a server before all that waits ends with the last error. 0: never.
  absl::Duration reconnect_timeout = absl::Seconds(60);
  // Answered turns that each session keeps while they are not durable, for a server that comes back without them.
  size_t keep_turns = 0;
  // After so long a silence the server is asked whether it lives; without an answer for half of it the connection is lost. A
  // server takes more than one question in ten seconds from a client that has nothing else to say for an attack.
  absl::Duration keepalive = absl::Seconds(20);
  std::function<void(const StreamEvent&)> on_event;  // of every stream, on its thread: must not block, nor call the stream
};

struct ImportOptions {
  bool accept_value_equal = false;  // where the server's numerics are not those of the blob
  v1::Durability durability = v1::DURABILITY_UNSPECIFIED;
};

// A connection to one server. Thread-safe. No call waits longer than its time-out.
class Client {
 public:
  // Waits until the server answers. UNAVAILABLE where it does not, with what to check.
  static absl::StatusOr<std::unique_ptr<Client>> Connect(const ConnectOptions& options);

  absl::StatusOr<std::vector<v1::ModelInfo>> ListModels();
  absl::StatusOr<v1::ModelInfo> GetModel(const std::string& name, const std::string& version = "");
  absl::StatusOr<v1::PredictResponse> Predict(const v1::PredictRequest& request);
  absl::StatusOr<v1::ListSessionsResponse> ListSessions(const std::string& model = "");
  absl::Status CloseSession(const std::string& session_id);

  // Of a handle from Session::Save, whose session must stand where the handle says (FAILED_PRECONDITION else: it went on).
  // Its holder is not disturbed. Fork: another session with the same state, as a handle for Stream::Resume. Export: the
  // state as a blob, which Import makes a session of, here or on another server with the same model. Handles hold secret
  // tokens; a blob shows what the session has seen.
  absl::StatusOr<std::string> Fork(const std::string& handle);
  absl::StatusOr<std::string> Export(const std::string& handle);
  absl::StatusOr<std::string> Import(const std::string& blob, const ImportOptions& options = {});

  // A stream for any number of sessions. It must not outlive the client.
  absl::StatusOr<std::unique_ptr<Stream>> OpenStream();

 private:
  Client(const ConnectOptions& options, std::shared_ptr<grpc::Channel> channel);
  void Prepare(grpc::ClientContext& context, bool with_deadline) const;
  template <typename Method, typename Request, typename Response>
  absl::Status Call(Method method, const Request& request, Response* response);
  template <typename Method, typename Request, typename Response>
  absl::Status CallAgain(Method method, const Request& request, Response* response);
  template <typename Method, typename Request, typename Response>
  absl::StatusOr<std::string> CallForSession(Method method, const Request& request, bool accept_value_equal, Response* response);

  const ConnectOptions options_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::Prediction::Stub> stub_;
};

}  // namespace lstm::client
