// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/base/engine.h"
#include "core/model/model.h"

namespace lstm::core {

// One row of a batch: one time step of one session.
struct StepRow {
  const float* state_in;               // [state_floats()], not written
  float* state_out;                    // [state_floats()], written whole; must not overlap any state_in of the batch
  const std::byte* const* inputs;      // per input of the program: one step, inputs()[i].step_bytes bytes
  std::byte* const* outputs;           // per output of the program: one step, or null where it is not wanted
  size_t output_count = ~size_t{0};    // those behind so many are not wanted, and may be missing
};

// A model compiled for execution one time step at a time over a batch [N, ...]. Immutable and thread-safe; every thread
// brings a Scratch of its own. The bits of a row depend on that row alone: never on N, on its place, or on the others.
class StepProgram {
 public:
  struct Options {
    int max_batch = 64;  // rows of the largest batch, 1 to 1024
    Engine engine = Engine::kAuto;
  };

  struct Port {
    std::string name;
    DType dtype;
    Shape shape;  // of one step
    size_t step_bytes;
    int64_t limit;  // kI32 inputs: ids lie in [0, limit), checked by the caller; 0: none
    Wire wire = {};  // inputs: how they may travel; the caller makes floats of them
  };

  // Everything that one thread needs to run the program. Confined to one thread.
  class Scratch {
   public:
    virtual ~Scratch() = default;
    std::span<const StepRow> begun;  // the program's own: what Begin was given
  };

  // Packs the weights and makes the kernels. oneDNN's are made for every batch size and tried: where they fail the proof that
  // a row's bits do not depend on its batch they are held to a size that passes, down to 1. INVALID_ARGUMENT for bad options,
  // RESOURCE_EXHAUSTED or INTERNAL where the kernels cannot be made.
  static absl::StatusOr<std::shared_ptr<const StepProgram>> Compile(std::shared_ptr<const Model> model,
                                                                    const Options& options);
  virtual ~StepProgram() = default;

  virtual std::unique_ptr<Scratch> MakeScratch() const = 0;

  // Many steps of the same few rows, by pieces, with the bits of Run step after step: a layer reads the weights that meet its
  // input once for all of them. Confined to one thread.
  class Block {
   public:
    virtual ~Block() = default;
    // rows[k * width + b] is step k of row b, at most kMaxBlockRows of them; from the second step on its state_in is the state_out of
    // the step before. They stay in place until all is done or another Begin.
    virtual void Begin(std::span<const StepRow> rows, size_t width) = 0;
    // The next piece: some kPieceCost multiply-adds, or one run of one unit (block_schedule.h), whatever it costs. True: all is done. INTERNAL as for Run.
    virtual absl::StatusOr<bool> Continue() = 0;
  };
  static constexpr size_t kMaxBlockRows = 64;
  static constexpr uint64_t kPieceCost = 5'000'000;  // some 100 us of one core
  // Null: a kernel here cannot (oneDNN's cells), so steps are run one by one.
  virtual std::unique_ptr<Block> MakeBlock() const { return nullptr; }
  uint64_t step_cost() const { return step_cost_; }  // multiply-adds of a row, more or less

  // Runs rows.size() <= max_batch() rows through one step. INTERNAL when a kernel fails: nothing in state_out or the
  // outputs then means anything.
  virtual absl::Status Run(std::span<const StepRow> rows, Scratch& scratch) const = 0;

  // The same by pieces, so that a long step does not hold up what is not of this program: some 2 * kPieceCost multiply-adds each, or what reads
  // as many weights as a core multiplies in that time, or what a kernel does in one go. True: all is done. Rows stay in place until then, or until
  // another Begin or Run in this scratch.
  virtual void Begin(std::span<const StepRow> rows, Scratch& scratch) const { scratch.begun = rows; }
  virtual absl::StatusOr<bool> Continue(Scratch& scratch) const;

  const Model& model() const { return *model_; }
  int max_batch() const { return max_batch_; }
  // The state tensors of a session lie one after another in one row of floats, each on a 64-byte boundary.
  size_t state_floats() const { return initial_state_.size(); }
  size_t state_offset(StateId id) const { return state_offsets_[static_cast<size_t>(id)]; }
  std::span<const float> initial_state() const { return initial_state_.span(); }
  const std::vector<Port>& inputs() const { return inputs_; }
  // First the declared outputs, then all that may be traced: values of layers by their name, new state tensors by theirs.
  const std::vector<Port>& outputs() const { return outputs_; }
  size_t declared_outputs() const { return model_->outputs.size(); }
  // What decides the bits of a result: engine, library, version, and the instruction set where it does.
  const std::string& numerics_id() const { return numerics_id_; }
  // One line per layer: "lstm.l0: LSTM 128 -> 256, oneDNN brgemm:avx512_core, batch 1 to 64".
  const std::vector<std::string>& engines() const { return engines_; }

 protected:
  StepProgram() = default;
  std::shared_ptr<const Model> model_;
  int max_batch_ = 0;
  std::vector<size_t> state_offsets_;
  AlignedBuffer<float> initial_state_;
  std::vector<Port> inputs_;
  std::vector<Port> outputs_;
  std::string numerics_id_;
  std::vector<std::string> engines_;
  uint64_t step_cost_ = 0;
};

}  // namespace lstm::core
