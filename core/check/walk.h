// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "core/base/aligned_buffer.h"
#include "core/program/step_program.h"

namespace lstm::core {

// One session that takes recorded steps, one after another. Confined to one thread; the program must outlive it.
class Walk {
 public:
  // `wanted`: indices of the program's outputs, traced ones too, that output() is asked for.
  Walk(const StepProgram& program, const std::vector<size_t>& wanted);

  // Back to the initial state.
  void Restart();
  // Step t of `inputs`: for each input of the program all steps, one after another, ids within their limits.
  absl::Status Step(const std::vector<std::vector<std::byte>>& inputs, uint64_t t);

  // What the last step gave.
  std::span<const float> output(size_t o) const { return answers_[o]; }
  // As it stands before the next step.
  std::span<const float> state(StateId id) const;

 private:
  const StepProgram& program_;
  const std::unique_ptr<StepProgram::Scratch> scratch_;
  AlignedBuffer<float> state_, next_;
  std::vector<std::vector<float>> answers_;  // by output; empty: not wanted
  std::vector<std::byte*> outputs_;
};

}  // namespace lstm::core
