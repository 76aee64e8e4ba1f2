// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "client/cpp/client.h"

namespace CLI {
class App;
}

namespace lstm::client {

// What every command needs to reach the server.
struct Connection {
  std::string server = "127.0.0.1:8001";
  std::string tls_ca, cert, key, token;
  double timeout_s = 10;

  void Describe(CLI::App& app);
  absl::StatusOr<std::unique_ptr<Client>> Connect() const;
};

// Each adds its sub-command; what it does is run by the app's callback, which sets `result`.
void AddModelsCommand(CLI::App& app, const Connection& connection, absl::Status& result);
void AddStreamCommands(CLI::App& app, const Connection& connection, absl::Status& result);  // stream, predict
void AddGenerateCommand(CLI::App& app, const Connection& connection, absl::Status& result);
void AddLoadCommand(CLI::App& app, const Connection& connection, absl::Status& result);
void AddSessionsCommand(CLI::App& app, const Connection& connection, absl::Status& result);

}  // namespace lstm::client
