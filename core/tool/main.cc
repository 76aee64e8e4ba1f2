// SPDX-License-Identifier: MIT
#include <CLI/CLI.hpp>
#include <iostream>

#include "core/tool/tool.h"

int main(int argc, char** argv) {
  CLI::App app("Looks at models before they are served: what they are, and whether they compute what they should.", "lstm-model");
  app.set_version_flag("--version", LSTM_VERSION);
  app.require_subcommand(1);
  absl::Status result;
  lstm::core::AddInspectCommand(app, result);
  lstm::core::AddVerifyCommand(app, result);
  lstm::core::AddBenchCommand(app, result);
  lstm::core::AddPackCommand(app, result);
  lstm::core::AddCalibrateCommand(app, result);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  if (result.ok()) return 0;
  std::cerr << "lstm-model: " << result.message() << "\n";
  return 1;
}
