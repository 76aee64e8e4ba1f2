// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "core/model/sequence.h"
#include "core/program/step_program.h"

namespace lstm::core {

// The stages of a sequence model, each compiled as a step program: a whole sequence is computed by running them one after the
// other (core/engine/sequence_run.h). Immutable and thread-safe.
class SequenceProgram {
 public:
  // `model` has a sequence. Errors as those of StepProgram::Compile.
  static absl::StatusOr<std::shared_ptr<const SequenceProgram>> Compile(std::shared_ptr<const Model> model,
                                                                        const StepProgram::Options& options);

  const Model& model() const { return *model_; }
  const SequenceModel& sequence() const { return *model_->sequence; }
  const std::vector<std::shared_ptr<const StepProgram>>& stages() const { return stages_; }
  const std::string& numerics_id() const { return stages_.front()->numerics_id(); }

 private:
  std::shared_ptr<const Model> model_;
  std::vector<std::shared_ptr<const StepProgram>> stages_;
};

}  // namespace lstm::core
