// SPDX-License-Identifier: MIT
#include "server/app/load_models.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/engine.h"
#include "core/base/status_macros.h"
#include "server/models/version_policy.h"

namespace lstm::server {

absl::StatusOr<std::unique_ptr<ModelKeeper>> LoadModels(const ServerOptions& options, ModelKeeper::Notes& notes) {
  LSTM_ASSIGN_OR_RETURN(VersionPolicies policies, ParseVersionPolicies(options.version_policy));
  auto keeper = std::make_unique<ModelKeeper>(ModelKeeper::Options{.directory = options.models, .max_batch = static_cast<int>(options.max_batch),
                                                                   .engine = core::EngineFromName(options.engine).value_or(core::Engine::kAuto), .policies = std::move(policies), .max_live_versions = options.max_live_versions});
  LSTM_RETURN_IF_ERROR(keeper->LoadAtStart(notes));
  if (keeper->repository()->open().empty()) return absl::NotFoundError(absl::StrCat("no model could be loaded from '", options.models, "'"));
  return keeper;
}

}  // namespace lstm::server
