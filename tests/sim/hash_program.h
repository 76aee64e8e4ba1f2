// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/program/step_program.h"
#include "server/models/model_repository.h"

namespace lstm::testing {

// Stands for a recurrent network: a state of 16 floats in which every input leaves its mark for ever, so that no two
// histories lead to the same one. What it gives is known without a server (Apply).
class HashProgram : public core::StepProgram {
 public:
  using State = std::array<float, 16>;
  using Output = std::array<float, 2>;
  static constexpr int kCrash = 998;   // as an input: the process dies of it
  static constexpr int kPoison = 999;  // as an input: the step gives no number

  HashProgram();

  // One step: `state` moves on. The same bits as Run.
  static Output Apply(State& state, int32_t input);
  // The next Run fails as a whole.
  void FailNext() { fail_next_ = true; }

  std::unique_ptr<Scratch> MakeScratch() const override { return std::make_unique<Scratch>(); }
  absl::Status Run(std::span<const core::StepRow> rows, Scratch& scratch) const override;

 private:
  mutable bool fail_next_ = false;
};

// A repository with that model alone, called "hash".
std::shared_ptr<const server::ModelRepository> HashRepository(std::shared_ptr<HashProgram> program);

}  // namespace lstm::testing
