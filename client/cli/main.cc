// SPDX-License-Identifier: MIT
#include <CLI/CLI.hpp>
#include <csignal>
#include <iostream>

#include "client/cli/command.h"

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe is an error of the output, not of the process
  CLI::App app("Talks to lstm-server: models, live streams, whole sequences, text, load.", "lstm-client");
  app.set_version_flag("--version", LSTM_VERSION);
  app.require_subcommand(1);
  app.fallthrough();
  lstm::client::Connection connection;
  connection.Describe(app);
  absl::Status result;
  lstm::client::AddModelsCommand(app, connection, result);
  lstm::client::AddStreamCommands(app, connection, result);
  lstm::client::AddGenerateCommand(app, connection, result);
  lstm::client::AddLoadCommand(app, connection, result);
  lstm::client::AddSessionsCommand(app, connection, result);
  lstm::client::AddTopCommand(app, result);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  if (result.ok()) return 0;
  std::cerr << "lstm-client: " << result.message() << "\n";
  return 1;
}
