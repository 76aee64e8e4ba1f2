// SPDX-License-Identifier: MIT
#include <CLI/CLI.hpp>
#include <iostream>

#include "core/tool/tool.h"
#include "core/tool/tool_main.h"

namespace lstm::core {

int ModelToolMain(int argc, char** argv) {
  CLI::App app("Looks at models before they are served: what they are, and whether they compute what they should.", "lstm-model");
  app.set_version_flag("--version", LSTM_VERSION);
  app.require_subcommand(1);
  absl::Status result;
  AddInspectCommand(app, result);
  AddVerifyCommand(app, result);
  AddBenchCommand(app, result);
  AddPackCommand(app, result);
  AddCalibrateCommand(app, result);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  if (result.ok()) return 0;
  std::cerr << "lstm-model: " << result.message() << "\n";
  return 1;
}

}  // namespace lstm::core
