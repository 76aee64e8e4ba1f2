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

// Private to core/program: the step program, a kernel for each node.
namespace lstm::core {

class CompiledProgram : public StepProgram {
 public:
  absl::Status Init(std::shared_ptr<const Model> model, const Options& options);

  std::unique_ptr<Scratch> MakeScratch() const override;
  absl::Status Run(std::span<const StepRow> rows, Scratch& scratch) const override;
  std::unique_ptr<Block> MakeBlock() const override;

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
  uint64_t CostOf(const Node& node) const;
  void PlanBlocks();
  void LayOutState();
  absl::Status CheckStateOwners() const;

  std::unique_ptr<RunScratch> Bind(bool many_steps) const;
  void Load(std::span<const StepRow> rows, RunScratch& scratch) const;
  void Store(std::span<const StepRow> rows, const RunScratch& scratch) const;

  std::vector<std::unique_ptr<const Kernel>> kernels_;  // by node
  std::vector<uint64_t> costs_;                         // by node
  std::vector<BlockUnit> units_;                        // of a block; empty: it cannot be
  std::vector<Source> sources_;                         // by output
  std::vector<std::pair<size_t, size_t>> state_gaps_;   // offset and size of the padding behind a state tensor
};

}  // namespace lstm::core
