// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/program/step_program.h"
#include "lstm/v1/model.pb.h"

namespace lstm::server {

// A model version that can be opened: its step program and how it presents itself. Immutable.
struct ServedModel {
  std::string name;
  std::string version;
  std::shared_ptr<const core::StepProgram> program;
  v1::ModelInfo info;  // whole, with the vocabulary
};
using ServedModelPtr = std::shared_ptr<const ServedModel>;

// The models under one directory, DIR/<name>/<version>/, loaded once at start. Immutable, so thread-safe.
class ModelRepository {
 public:
  struct Failure {
    std::string name;
    std::string version;
    absl::Status status;
  };

  // Loads every version of every model. Names are [A-Za-z0-9_-]{1,64}, versions whole numbers from 1 without leading
  // zeros; other entries and symbolic links are left alone. A version that does not load is a Failure and does not stop
  // the others. NOT_FOUND where `directory` is none; `failures` is filled in any case.
  static absl::StatusOr<std::shared_ptr<const ModelRepository>> Load(const std::string& directory, int max_batch,
                                                                     std::vector<Failure>& failures);

  // `version` empty: the highest. Names are looked up here, never joined to a path. NOT_FOUND names what there is.
  absl::StatusOr<ServedModelPtr> Find(const std::string& name, const std::string& version) const;

  // By name, then by version, highest first.
  const std::vector<ServedModelPtr>& all() const { return models_; }

 private:
  std::vector<ServedModelPtr> models_;
};

// How a program presents itself to clients; `versions` is left to the caller.
v1::ModelInfo MakeModelInfo(const core::StepProgram& program);

}  // namespace lstm::server
