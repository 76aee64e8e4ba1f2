// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "lstm/v1/prediction.grpc.pb.h"

namespace lstm::client {

class Stream;

struct ConnectOptions {
  std::string address;                // HOST:PORT or unix:PATH
  std::string tls_ca;                 // PEM text of the CA that signed the server's certificate; empty: plain text
  std::string tls_cert, tls_key;      // PEM text of our own certificate, where the server demands one
  std::string token;                  // sent as "authorization: Bearer ..."
  absl::Duration timeout = absl::Seconds(10);  // of connecting and of every unary call
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

  // A stream for any number of sessions. It must not outlive the client.
  absl::StatusOr<std::unique_ptr<Stream>> OpenStream();

 private:
  Client(const ConnectOptions& options, std::shared_ptr<grpc::Channel> channel);
  void Prepare(grpc::ClientContext& context, bool with_deadline) const;
  template <typename Method, typename Request, typename Response>
  absl::Status Call(Method method, const Request& request, Response* response);

  const ConnectOptions options_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::Prediction::Stub> stub_;
};

}  // namespace lstm::client
