// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "core/engine/batch_engine.h"
#include "core/program/sequence_program.h"

namespace lstm::core {

// One whole sequence on its way through the stages of a program. Each stage is a turn of the engine like any other: its steps
// share batches with those of others and hold nobody up. Confined to one thread.
class SequenceRun {
 public:
  // `inputs`: per input of the sequence [T, one step], or one; empty: left out. INVALID_ARGUMENT, naming the input, where
  // one is missing, has another size, or a length is not 1 to T.
  static absl::StatusOr<std::unique_ptr<SequenceRun>> Make(std::shared_ptr<const SequenceProgram> program, uint32_t steps,
                                                           std::vector<std::vector<std::byte>> inputs);

  // How many frames an output has of a sequence of so many steps; 0: too few steps for any.
  static uint32_t Frames(const SequenceModel& model, const SequencePort& output, uint32_t steps);

  // What a run over so many steps holds at most, beside its inputs.
  static uint64_t Bytes(const SequenceProgram& program, uint32_t steps);

  // Fills `turn` with the next stage; false: all are done. The turn's two rows of scratch are the run's.
  bool Next(Turn& turn);
  // Takes what a finished turn gave. The turn's status must be OK.
  void Take(const Turn& turn);

  // Of an output of the sequence, once all is done: [T, one step], or as many frames as its length says, or one.
  std::vector<std::byte> Output(size_t output) const;

 private:
  SequenceRun(std::shared_ptr<const SequenceProgram> program, uint32_t steps) : program_(std::move(program)), steps_(steps) {}
  struct Done {
    std::vector<std::vector<std::byte>> outputs;  // per declared output of the stage [its steps, one step]
    AlignedBuffer<float> state;                   // after its last step
    uint32_t steps = 0;
  };
  uint32_t StepsOf(const SequenceStage& stage) const;
  // Steps of the source that `read` reads, and the bytes of one.
  std::pair<std::span<const std::byte>, size_t> SourceOf(const SequenceRead& read) const;
  void Gather(const SequenceRead& read, uint32_t steps, std::byte* to) const;
  void Once(const SequenceRead& read, std::byte* to, size_t bytes) const;

  std::shared_ptr<const SequenceProgram> program_;
  const uint32_t steps_;
  std::vector<uint32_t> lengths_;
  std::vector<std::vector<std::byte>> inputs_;
  std::vector<Done> done_;
  std::vector<std::vector<std::byte>> gathered_;  // of the stage that runs, where its inputs do not lie ready
  AlignedBuffer<float> state_, rows_[2];
};

}  // namespace lstm::core
