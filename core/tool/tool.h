// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "core/import/manifest_import.h"
#include "core/program/step_program.h"

namespace CLI {
class App;
}

// Private to lstm-model: looks at models before they are served.
namespace lstm::core {

// A model directory, DIR/<model>/<version> or any other, compiled as the server would.
absl::StatusOr<std::shared_ptr<const StepProgram>> LoadProgram(const std::string& directory, int max_batch, ImportNotes* notes);

void AddInspectCommand(CLI::App& app, absl::Status& result);
void AddVerifyCommand(CLI::App& app, absl::Status& result);

}  // namespace lstm::core
