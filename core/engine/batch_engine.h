// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "core/program/step_program.h"

namespace lstm::core {

// T time steps of one session; callers may derive from it. Owned by the caller, who keeps it and all that it points to in place from Add to its
// appearance among the finished.
struct Turn {
  // Set by the caller.
  const StepProgram* program = nullptr;
  uint32_t steps = 0;                       // T >= 1
  std::vector<const std::byte*> inputs;     // per program input: [T, one step]
  std::vector<std::byte*> outputs;          // per program output: [T or 1, one step], or null: not wanted; the last ones may be missing
  bool last_step_only = false;              // outputs hold the last step alone
  bool alone = false;                       // shares no batch
  const float* state = nullptr;             // before the turn; not written
  // Rows of state_floats(): step k, where a batch or block ends with it, leaves its state in k % 2; one is enough for T = 1.
  float* scratch[2] = {nullptr, nullptr};
  void (*on_progress)(Turn&) = nullptr;     // may be null: `done` of the steps, not all, are in the outputs, and warm in the cache

  // Set by the engine.
  absl::Status status;                      // INTERNAL: a kernel failed. INVALID_ARGUMENT: a value was not finite.
  const float* new_state = nullptr;         // one of scratch, when status is OK
  uint32_t done = 0;                        // steps computed
  uint32_t batch_rows = 0;                  // rows in the batch of the last step
};

// Who computes a batch, where that is not the engine's thread alone. No bit depends on it.
class BatchRunner {
 public:
  virtual ~BatchRunner() = default;
  // As StepProgram::Run. Nothing: the engine's thread computes it.
  virtual std::optional<absl::Status> Run(const StepProgram& program, std::span<const StepRow> rows, StepProgram::Scratch& scratch) = 0;
};

class Lane;

// Forms batches from the turns of many sessions, cell by cell: every call of RunBatch takes one step of up to max_batch turns of
// one program, or, where few turns have many steps left, one piece of a block of their steps (StepProgram::Block). Turns join and
// leave between any two steps; a block is between others' steps what one row would be. A long step is computed in pieces too
// (StepProgram::Continue). Programs take turns, oldest first, so that a busy one holds up the others by one short batch or piece at most.
// Confined to one thread; no threads, clock or locks inside.
class BatchEngine {
 public:
  explicit BatchEngine(BatchRunner* runner = nullptr);  // null: this thread
  ~BatchEngine();

  // Takes `turn` in. At most one turn of a session may be inside at a time.
  void Add(Turn* turn);

  // Gives a turn up that has not come back among the finished: nothing of it is touched any more.
  void Remove(Turn* turn);

  // Runs one batch or piece, if there is a turn, and gives the steps that it finished: none where a block or a step goes on. Turns that
  // ended with it, well or badly, are appended to `finished`, each once.
  size_t RunBatch(std::vector<Turn*>& finished);

  // Scratch memory in which nothing of the program is under way. REQUIRES: RunBatch is not under way.
  StepProgram::Scratch& ScratchOf(const StepProgram* program);
  // Takes it back. REQUIRES: none of its turns is inside.
  void Forget(const StepProgram* program);

  // The turns whose step is being computed at this instant: for a handler that runs when that ends the process.
  std::span<Turn* const> running() const { return running_; }

  bool idle() const { return waiting_ == 0; }
  size_t waiting() const { return waiting_; }
  uint64_t steps_left() const;  // of all turns inside

 private:
  Lane& LaneOf(const StepProgram* program);

  BatchRunner* const runner_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  size_t next_ = 0;  // the lane that is looked at first
  size_t waiting_ = 0;
  std::span<Turn* const> running_;
};

}  // namespace lstm::core
