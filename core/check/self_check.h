// SPDX-License-Identifier: MIT
#pragma once

#include "absl/status/status.h"
#include "core/program/step_program.h"

namespace lstm::core {

// Runs steps from the initial state at every batch size that kernels are made for: they are warm then. INTERNAL where a
// step fails, gives no finite numbers whatever is fed, or gives a row other bits in one batch than in another.
absl::Status SelfCheck(const StepProgram& program, bool any_state = false);

}  // namespace lstm::core
