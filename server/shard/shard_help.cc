// SPDX-License-Identifier: MIT
#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "server/shard/shard.h"
#include "server/shard/shared_batch.h"

// Large batches, of which shards that have nothing to do take a part.
namespace lstm::server {
namespace {

// Of a part: fewer rows read the weights too often, less is not worth waking a thread, and more would hold up what comes to that shard.
constexpr size_t kFewestRows = 16;
constexpr uint64_t kLeastCost = 8'000'000;   // multiply-adds, some 100 us of one core
constexpr uint64_t kMostCost = 160'000'000;  // some 2 ms
constexpr uint32_t kAlone = 256;             // after one that was no help, this batch is the first that is divided again

// 1: the batch is not divided.
size_t PartsOf(const core::StepProgram& program, size_t rows) {
  const uint64_t cost = std::max<uint64_t>(program.step_cost(), 1);
  const uint64_t most = std::min<uint64_t>(rows / kFewestRows, cost * rows / kLeastCost);
  const uint64_t least = std::max<uint64_t>(2, (cost * rows + kMostCost - 1) / kMostCost);
  return most < least ? 1 : static_cast<size_t>(least);
}

}  // namespace

std::optional<absl::Status> Shard::Run(const core::StepProgram& program, std::span<const core::StepRow> rows, core::StepProgram::Scratch& scratch) {
  const bool may = services_.peers != nullptr && (alone_ == 0 || --alone_ == 0);
  const size_t parts = may ? PartsOf(program, rows.size()) : 1;
  std::optional<size_t> idle = parts > 1 ? services_.peers->TakeIdle() : std::nullopt;
  if (!idle) return std::nullopt;
  const auto batch = std::make_shared<SharedBatch>(program, rows, parts);
  for (size_t asked = 1; idle && asked < parts; ++asked, idle = asked < parts ? services_.peers->TakeIdle() : std::nullopt) {
    services_.peers->Send(*idle, [batch, this](Shard& other) { other.Help(batch, this); });
  }
  size_t own = 0;
  const uint64_t begin = services_.clock();
  while (batch->TakePart([&](const core::StepProgram*) -> core::StepProgram::Scratch& { return scratch; })) ++own;
  if (own == parts) return batch->Wait();
  counters_.shared_batches.Add();
  const uint64_t through = services_.clock();
  const absl::Status done = batch->Wait();
  // Who waits for others longer than computing their part would have taken shares a core with somebody else: that helps nobody.
  if ((services_.clock() - through) * own > (through - begin) * (parts - own)) alone_ = kAlone;
  return done;
}

// One part, and another when what has come meanwhile is done.
void Shard::Help(const std::shared_ptr<SharedBatch>& batch, const Shard* whose) {
  const Shard* const before = std::exchange(Working(), whose);  // a turn that ends the process here is one of theirs
  const bool took = batch->TakePart([this](const core::StepProgram* program) -> core::StepProgram::Scratch& { return engine_.ScratchOf(program); });
  Working() = before;
  if (took && batch->open() && engine_.idle()) services_.peers->Send(index_, [batch, whose](Shard& self) { self.Help(batch, whose); });
}

}  // namespace lstm::server
