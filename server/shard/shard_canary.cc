// SPDX-License-Identifier: MIT
#include <algorithm>
#include <utility>

#include "server/shard/predict.h"
#include "server/shard/shard.h"

// The step that shows whether steps go through: by the engine's queue, beside those of sessions, of the smallest model.
namespace lstm::server {

void Shard::Canary(std::function<void(bool computed)> done) {
  ServedModelPtr smallest;
  for (const ServedModelPtr& model : services_.models->open()) {
    if (model->program && (!smallest || model->info.parameters() < smallest->info.parameters())) smallest = model;
  }
  if (!smallest) return done(true);  // none has steps: that this was called shows what can be shown
  canary_ = std::make_unique<PredictCall>();
  canary_->model = smallest;
  canary_->done = [done = std::move(done)](const absl::Status& status) {
    done(status.ok() || absl::IsInvalidArgument(status));  // zeros may lead a sound model to what is not finite
  };
  const core::StepProgram& program = *smallest->program;
  canary_->state = core::AlignedBuffer<float>(program.state_floats());
  std::copy(program.initial_state().begin(), program.initial_state().end(), canary_->state.data());
  TurnRecord& record = canary_->record;
  size_t bytes = 0;
  for (const auto& port : program.inputs()) bytes += port.step_bytes;
  record.input.assign(bytes, std::byte{0});
  record.steps = 1;
  record.predict = canary_.get();
  record.program = &program;
  record.state = canary_->state.data();
  BindBuffers(&record, {});
  TakeScratch(&record, 0);
  engine_.Add(&record);
}

void Shard::FinishCanary() {
  const std::unique_ptr<PredictCall> call = std::move(canary_);
  GiveScratch(&call->record);
  call->done(call->record.status);
}

}  // namespace lstm::server
