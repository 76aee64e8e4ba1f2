// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/base/aligned_buffer.h"
#include "core/engine/batch_engine.h"

// Private to core/engine.
namespace lstm::core {

// The turns and the scratch of one program. Its turns run one step at a time, as many as fit together, a long one in pieces; few turns
// that have many steps left run those in a block, piece by piece, and between two pieces the steps of others. Confined to one thread.
class Lane {
 public:
  Lane(const StepProgram* program, BatchRunner* runner);

  const StepProgram* program() const { return program_; }
  // In which no batch is half done.
  StepProgram::Scratch& scratch();
  bool idle() const { return turns_.empty() && block_turns_.empty(); }

  uint64_t steps_left() const { return steps_left_; }  // of all its turns

  void Add(Turn* turn);
  // False: it was not here.
  bool Remove(Turn* turn);

  // One batch or one piece of a block. Gives the rows that it finished; `running` names the turns while it computes.
  size_t Run(std::vector<Turn*>& finished, std::span<Turn* const>& running);

 private:
  // Rows of steps, and what they point to.
  struct Rows {
    std::vector<StepRow> rows;
    std::vector<const std::byte*> inputs;  // [rows, program inputs]
    std::vector<std::byte*> outputs;       // [rows, program outputs]
  };
  void Reserve(Rows& rows, size_t n) const;
  void AddRow(Rows& to, const Turn& turn, uint32_t step, const float* state_in, float* state_out) const;
  absl::Status CheckFinite(uint32_t step, const StepRow& row) const;

  size_t Together() const;                    // turns that the next batch or block takes
  size_t StepsAtOnce(size_t together) const;  // that they take in a block; 1: none
  size_t BeginSteps(size_t n, std::vector<Turn*>& finished, std::span<Turn* const>& running);
  size_t ContinueSteps(std::vector<Turn*>& finished, std::span<Turn* const>& running);
  size_t FinishSteps(const absl::Status& run, size_t n, std::vector<Turn*>& finished);
  void BeginBlock(size_t n, size_t steps);
  size_t RunPiece(std::vector<Turn*>& finished, std::span<Turn* const>& running);

  const StepProgram* program_;
  BatchRunner* runner_;  // null: this thread
  std::vector<Turn*> turns_;  // in order of arrival
  uint64_t steps_left_ = 0;
  std::unique_ptr<StepProgram::Scratch> scratch_, spare_;  // the second one for others, where they come while a batch is half done
  Rows batch_;
  size_t stepping_ = 0;  // the first of turns_ whose step is half done: those of batch_.rows, in that order

  std::unique_ptr<StepProgram::Block> block_;  // null where the program has none
  std::vector<Turn*> block_turns_;
  Rows block_rows_;                   // [steps, turns]
  size_t block_limit_ = 0;             // rows of a block at most
  AlignedBuffer<float> block_states_;  // [block_limit_, state_floats()]: between the steps of a block
  bool others_first_ = false;
  bool at_once_ = false;  // what others had half done was given up for a turn that went: their next step is not cut, or who comes and goes would stop it for ever
};

}  // namespace lstm::core
