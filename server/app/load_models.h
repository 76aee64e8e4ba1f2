// SPDX-License-Identifier: MIT
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "server/app/options.h"
#include "server/models/model_keeper.h"

namespace lstm::server {

// The keeper of --models after its first look, all that loads loaded and tried; `notes` say what was and what was not.
// NOT_FOUND: the directory can not be read, or no model in it can be opened.
absl::StatusOr<std::unique_ptr<ModelKeeper>> LoadModels(const ServerOptions& options, ModelKeeper::Notes& notes);

}  // namespace lstm::server
