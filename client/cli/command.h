// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/cpp/client.h"

namespace CLI {
class App;
}

namespace lstm::client {

// What every command needs to reach the server.
struct Connection {
  std::string server = "127.0.0.1:8001";
  std::string tls_ca, cert, key, token, affinity;
  double timeout_s = 10, reconnect_s = 60;

  void Describe(CLI::App& app);
  // Its streams say on standard error when they lose their server and when they have it again.
  absl::StatusOr<std::unique_ptr<Client>> Connect() const;
  // How long an answer may take: a server that is restarted meanwhile must not cost it.
  absl::Duration patience() const { return absl::Seconds(timeout_s + reconnect_s); }
};

// --durability, for the commands that make sessions.
void AddDurabilityOption(CLI::App& command, v1::Durability& durability);

// Each adds its sub-command; what it does is run by the app's callback, which sets `result`.
void AddModelsCommand(CLI::App& app, const Connection& connection, absl::Status& result);
void AddStreamCommands(CLI::App& app, const Connection& connection, absl::Status& result);  // stream, predict
void AddGenerateCommand(CLI::App& app, const Connection& connection, absl::Status& result);
void AddLoadCommand(CLI::App& app, const Connection& connection, absl::Status& result);
void AddSessionsCommand(CLI::App& app, const Connection& connection, absl::Status& result);
void AddTopCommand(CLI::App& app, absl::Status& result);

}  // namespace lstm::client
