// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "core/kernels/kernel.h"
#include "core/program/block_schedule.h"
#include "core/program/step_program.h"
#include "core/program/straighten.h"

// Private to core/program: the step program, a kernel for each node.
namespace lstm::core {

class CompiledProgram : public StepProgram {
 public:
  absl::Status Init(std::shared_ptr<const Model> model, const Options& options);

  std::unique_ptr<Scratch> MakeScratch() const override;
  absl::Status Run(std::span<const StepRow> rows, Scratch& scratch) const override;
  std::unique_ptr<Block> MakeBlock() const override;
  void Begin(std::span<const StepRow> rows, Scratch& scratch) const override;
  absl::StatusOr<bool> Continue(Scratch& scratch) const override;

 private:
  struct Source {  // of an output: a value, or a tensor of the new state
    ValueId value;
    StateId state;
  };
  struct RunScratch;
  class KernelBlock;

  Port PortOf(const std::string& name, ValueId id, int64_t limit) const;
  void AddOutput(Port port, Source source) {
    outputs_.push_back(std::move(port));
    sources_.push_back(source);
  }
  static uint64_t WeightsOf(const Node& node);
  uint64_t CostOf(const Node& node) const;
  void PlanBlocks();
  void PlanRooms();
  void PlanParts(Engine engine);
  void LayOutState();
  absl::Status CheckStateOwners() const;

  std::unique_ptr<RunScratch> Bind(bool many_steps) const;
  void Load(std::span<const StepRow> rows, RunScratch& scratch) const;
  void Store(std::span<const size_t> outputs, std::span<const StepRow> rows, const RunScratch& scratch) const;
  void StoreAll(std::span<const StepRow> rows, const RunScratch& scratch) const;
  absl::StatusOr<bool> Go(uint64_t cost, RunScratch& scratch) const;
  absl::StatusOr<bool> GoThrough(std::span<const StepRow> rows, uint64_t most, uint64_t& cost, RunScratch& scratch) const;

  std::vector<std::unique_ptr<const Kernel>> kernels_;  // by node
  std::vector<uint64_t> costs_;                         // by node
  std::vector<BlockUnit> units_;                        // of a block; empty: it cannot be
  std::vector<Source> sources_;                         // by output
  std::vector<Order> orders_;                           // by ValueId
  std::vector<size_t> room_of_;                         // by ValueId: values of which one is dead before the other is made share a room
  std::vector<size_t> room_widths_;                     // floats of a row
  std::vector<std::vector<size_t>> made_by_;            // by node: outputs that show its value
  std::vector<size_t> as_read_, of_state_;              // outputs that show an input, or the new state
  size_t part_rows_ = 0;                                // rows that go through all nodes before the next ones do
  std::vector<std::pair<size_t, size_t>> state_gaps_;   // offset and size of the padding behind a state tensor
};

}  // namespace lstm::core
