// SPDX-License-Identifier: MIT
#include "core/program/sequence_program.h"

#include <utility>

#include "core/base/status_macros.h"

namespace lstm::core {

absl::StatusOr<std::shared_ptr<const SequenceProgram>> SequenceProgram::Compile(std::shared_ptr<const Model> model,
                                                                                const StepProgram::Options& options) {
  if (!model->sequence || model->sequence->stages.empty()) return absl::InvalidArgumentError("the model has no stages");
  auto program = std::make_shared<SequenceProgram>();
  program->model_ = std::move(model);
  for (const SequenceStage& stage : program->model_->sequence->stages) {
    LSTM_ASSIGN_OR_RETURN(program->stages_.emplace_back(), StepProgram::Compile(stage.model, options));
  }
  return std::shared_ptr<const SequenceProgram>(std::move(program));
}

}  // namespace lstm::core
