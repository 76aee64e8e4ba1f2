// SPDX-License-Identifier: MIT
#include "core/check/walk.h"

#include <algorithm>
#include <utility>

#include "core/base/status_macros.h"

namespace lstm::core {

Walk::Walk(const StepProgram& program, const std::vector<size_t>& wanted)
    : program_(program),
      scratch_(program.MakeScratch()),
      state_(program.state_floats()),
      next_(program.state_floats()),
      answers_(program.outputs().size()),
      outputs_(program.outputs().size(), nullptr) {
  for (const size_t o : wanted) {
    answers_[o].resize(program.outputs()[o].step_bytes / sizeof(float));
    outputs_[o] = reinterpret_cast<std::byte*>(answers_[o].data());
  }
  Restart();
}

void Walk::Restart() { std::copy(program_.initial_state().begin(), program_.initial_state().end(), state_.data()); }

absl::Status Walk::Step(const std::vector<std::vector<std::byte>>& inputs, uint64_t t) {
  std::vector<const std::byte*> step;
  for (size_t i = 0; i < inputs.size(); ++i) step.push_back(inputs[i].data() + t * program_.inputs()[i].step_bytes);
  const StepRow row = {state_.data(), next_.data(), step.data(), outputs_.data()};
  LSTM_RETURN_IF_ERROR(program_.Run({&row, 1}, *scratch_));
  std::swap(state_, next_);
  return absl::OkStatus();
}

std::span<const float> Walk::state(StateId id) const {
  const auto size = static_cast<size_t>(CheckedElementCount(program_.model().state[static_cast<size_t>(id)].shape));
  return state_.span().subspan(program_.state_offset(id), size);
}

}  // namespace lstm::core
