// SPDX-License-Identifier: MIT
#include "server/shard/predict.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "server/log/log.h"
#include "server/shard/tensor_codec.h"

namespace lstm::server {
namespace {

absl::Status Prepare(const v1::PredictRequest& request, size_t max_answer_bytes, PredictCall& call) {
  const core::StepProgram& program = *call.model->program;
  LSTM_ASSIGN_OR_RETURN(call.selected, SelectOutputs(program, request.options()));
  call.state = core::AlignedBuffer<float>(program.state_floats());
  std::copy(program.initial_state().begin(), program.initial_state().end(), call.state.data());
  LSTM_RETURN_IF_ERROR(DecodeState(program, request.initial_state(), call.state.span()));

  TurnRecord& record = call.record;
  LSTM_ASSIGN_OR_RETURN(record.steps, DecodeInputs(program, request.inputs(), request.steps(), record.input));
  if (record.steps == 0) return absl::InvalidArgumentError("steps is 0, expected at least 1");
  const size_t per_step = AnswerStepBytes(program, call.selected);
  record.last_step_only = request.options().last_step_only();
  record.answer_steps = record.last_step_only ? 1 : record.steps;
  if (record.answer_steps * per_step > max_answer_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("the answer to ", record.steps, " steps has ",
                                                   record.answer_steps * per_step, " bytes, at most ", max_answer_bytes,
                                                   " can be sent: steps may be at most ", max_answer_bytes / per_step,
                                                   "; or use last_step_only, or a stream"));
  }
  return absl::OkStatus();
}

// Whole sequences: what the model reads and gives is that of the sequence.
absl::Status PrepareSequence(const v1::PredictRequest& request, size_t max_answer_bytes, PredictCall& call, uint64_t& charge) {
  const core::SequenceProgram& program = *call.model->sequence;
  const core::SequenceModel& sequence = program.sequence();
  if (request.initial_state_size() > 0 || request.return_state()) {
    return absl::InvalidArgumentError("initial_state and return_state are of sessions; what this model begins from and ends with is among its predict_inputs and predict_outputs");
  }
  LSTM_ASSIGN_OR_RETURN(call.selected, SelectOutputs(sequence, request.options()));
  std::vector<std::vector<std::byte>> inputs;
  LSTM_ASSIGN_OR_RETURN(const uint32_t steps, DecodeSequence(sequence, request.inputs(), request.steps(), inputs));
  if (steps == 0) return absl::InvalidArgumentError("steps is 0, expected at least 1");
  call.last_step_only = request.options().last_step_only();
  uint64_t answer = 0;
  for (const uint32_t o : call.selected) answer += AnswerBytes(sequence.outputs[o], call.last_step_only ? 1 : core::SequenceRun::Frames(sequence, sequence.outputs[o], steps));
  if (answer > max_answer_bytes) {
    return absl::InvalidArgumentError(absl::StrCat("the answer to ", steps, " steps has ", answer, " bytes, at most ", max_answer_bytes, " can be sent: select fewer outputs, or use last_step_only"));
  }
  charge = answer + core::SequenceRun::Bytes(program, steps);
  for (const auto& input : inputs) charge += input.size();
  call.record.steps = steps;
  LSTM_ASSIGN_OR_RETURN(call.run, core::SequenceRun::Make(call.model->sequence, steps, std::move(inputs)));
  return absl::OkStatus();
}

}  // namespace

absl::Status Shard::ChargeSteps(Account* account, uint64_t steps) {
  const uint64_t wait_us = account != nullptr ? account->TakeSteps(steps, services_.clock()) : 0;
  if (wait_us == 0) return absl::OkStatus();
  counters_.over_steps.Add();
  return account->TooFast(wait_us);
}

void Shard::Predict(const v1::PredictRequest& request, v1::PredictResponse* response, PredictDone done, const std::string& principal) {
  if (draining_) return done(absl::UnavailableError("the server is going away; ask another, or again later"));
  auto call = std::make_unique<PredictCall>();
  auto model = services_.models->Find(request.model(), request.version());
  if (!model.ok()) return done(model.status());
  call->model = *std::move(model);
  const std::shared_ptr<Account> account = AccountOf(principal);
  if (call->model->sequence) return PredictSequence(request, response, std::move(call), std::move(done), account.get());
  const absl::Status prepared = Prepare(request, options_.max_turn_answer_bytes, *call);
  if (!prepared.ok()) return done(prepared);

  const core::StepProgram& program = *call->model->program;
  TurnRecord& record = call->record;
  const size_t answer_bytes = record.answer_steps * AnswerStepBytes(program, call->selected);
  const uint64_t charge = record.input.size() + answer_bytes + 3 * call->state.size() * sizeof(float);
  if (!budget_->TakeBytes(charge)) {
    return done(absl::ResourceExhaustedError("no memory for this sequence now; try again later"));
  }
  if (const absl::Status charged = ChargeSteps(account.get(), record.steps); !charged.ok()) {
    budget_->GiveBytes(charge);
    return done(charged);
  }
  record.charged_bytes = charge;
  record.predict = call.get();
  record.program = &program;
  record.state = call->state.data();
  record.answer_memory.resize(answer_bytes);
  record.answer = record.answer_memory;
  BindBuffers(&record, call->selected);
  call->response = response;
  call->return_state = request.return_state();
  call->done = std::move(done);
  for (size_t i = 0; i < 2; ++i) TakeScratch(&record, i);
  engine_.Add(&record);
  predicts_.emplace(response, std::move(call));
}

void Shard::PredictSequence(const v1::PredictRequest& request, v1::PredictResponse* response, std::unique_ptr<PredictCall> call, PredictDone done, Account* account) {
  uint64_t charge = 0;
  const absl::Status prepared = PrepareSequence(request, options_.max_turn_answer_bytes, *call, charge);
  if (!prepared.ok()) return done(prepared);
  if (!budget_->TakeBytes(charge)) return done(absl::ResourceExhaustedError("no memory for this sequence now; try again later"));
  if (const absl::Status charged = ChargeSteps(account, call->record.steps); !charged.ok()) {
    budget_->GiveBytes(charge);
    return done(charged);
  }
  TurnRecord& record = call->record;
  call->steps = record.steps;
  record.charged_bytes = charge;
  record.predict = call.get();
  call->response = response;
  call->done = std::move(done);
  call->run->Next(record);
  engine_.Add(&record);
  predicts_.emplace(response, std::move(call));
}

void Shard::ForgetPredict(const v1::PredictResponse* response) {
  const auto it = predicts_.find(response);
  if (it == predicts_.end()) return;
  TurnRecord* record = &it->second->record;
  engine_.Remove(record);
  GiveScratch(record);
  budget_->GiveBytes(record->charged_bytes);
  predicts_.erase(it);
}

void Shard::FinishPredict(TurnRecord* record) {
  PredictCall* call = record->predict;
  if (!record->status.ok() && !absl::IsInvalidArgument(record->status)) {
    counters_.kernel_failures.Add();
    LogEvent(LogLevel::kError, "computing failed: a whole sequence is not answered", {{"model", call->model->name}, {"version", call->model->version}, {"shard", index_}, {"why", record->status.ToString()}});
  }
  if (record->status.ok() && call->run) {
    call->run->Take(*record);
    if (call->run->Next(*record)) return engine_.Add(record);
    const core::SequenceModel& sequence = call->model->sequence->sequence();
    for (const uint32_t o : call->selected) EncodeOutput(sequence.outputs[o], call->run->Output(o), core::SequenceRun::Frames(sequence, sequence.outputs[o], call->steps), call->last_step_only, call->response->mutable_outputs());
    record->steps = call->steps;
  }
  if (record->status.ok()) {
    counters_.predicts.Add();
    counters_.predict_steps.Add(record->steps);
    if (!call->run) EncodeOutputs(*record->program, call->selected, record->answer_steps, record->answer, call->response->mutable_outputs());
    if (call->return_state) {
      EncodeState(*record->program, {record->new_state, call->state.size()}, call->response->mutable_state());
    }
    call->response->set_model_hash(call->model->info.model_hash());
    call->response->set_numerics_id(record->program->numerics_id());
    call->response->set_version(call->model->version);
  }
  GiveScratch(record);
  budget_->GiveBytes(record->charged_bytes);
  const auto node = predicts_.extract(call->response);
  call->done(record->status);
}

}  // namespace lstm::server
