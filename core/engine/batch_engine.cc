// SPDX-License-Identifier: MIT
#include "core/engine/batch_engine.h"

#include <algorithm>

#include "core/engine/lane.h"

namespace lstm::core {

BatchEngine::BatchEngine(BatchRunner* runner) : runner_(runner) {}
BatchEngine::~BatchEngine() = default;

Lane& BatchEngine::LaneOf(const StepProgram* program) {
  for (const auto& lane : lanes_) {
    if (lane->program() == program) return *lane;
  }
  return *lanes_.emplace_back(std::make_unique<Lane>(program, runner_));
}

StepProgram::Scratch& BatchEngine::ScratchOf(const StepProgram* program) { return LaneOf(program).scratch(); }

void BatchEngine::Add(Turn* turn) {
  turn->status = absl::OkStatus();
  turn->new_state = nullptr;
  turn->done = 0;
  LaneOf(turn->program).Add(turn);
  ++waiting_;
}

void BatchEngine::Remove(Turn* turn) {
  if (LaneOf(turn->program).Remove(turn)) --waiting_;
}

size_t BatchEngine::RunBatch(std::vector<Turn*>& finished) {
  if (waiting_ == 0) return 0;
  while (lanes_[next_ % lanes_.size()]->idle()) ++next_;
  const size_t before = finished.size();
  const size_t rows = lanes_[next_++ % lanes_.size()]->Run(finished, running_);
  waiting_ -= finished.size() - before;
  return rows;
}

uint64_t BatchEngine::steps_left() const {
  uint64_t all = 0;
  for (const auto& lane : lanes_) all += lane->steps_left();
  return all;
}

void BatchEngine::Forget(const StepProgram* program) {
  std::erase_if(lanes_, [&](const auto& lane) { return lane->program() == program; });
  next_ = 0;
}

}  // namespace lstm::core
