// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "core/program/step_program.h"

namespace lstm::server {

// One batch in parts, which the shard that has it and shards that have nothing to do take one after another. Thread-safe. What it points to
// is there until Wait returns; who comes later finds no part, and touches nothing of it.
class SharedBatch {
 public:
  SharedBatch(const core::StepProgram& program, std::span<const core::StepRow> rows, size_t parts) : program_(program), rows_(rows), results_(parts) {}

  // Computes one part in `scratch`, which `scratch_of` gives. False: all are taken.
  template <typename ScratchOf>
  bool TakePart(ScratchOf&& scratch_of) {
    const size_t part = next_.fetch_add(1, std::memory_order_relaxed);
    if (part >= results_.size()) return false;
    const size_t begin = rows_.size() * part / results_.size(), end = rows_.size() * (part + 1) / results_.size();
    results_[part] = program_.Run(rows_.subspan(begin, end - begin), scratch_of(&program_));
    if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == results_.size()) done_.notify_all();
    return true;
  }
  bool open() const { return next_.load(std::memory_order_relaxed) < results_.size(); }

  // Until all parts are done: OK, or why one was not.
  absl::Status Wait() {
    for (size_t done = done_.load(std::memory_order_acquire); done < results_.size(); done = done_.load(std::memory_order_acquire)) done_.wait(done, std::memory_order_acquire);
    const auto failed = std::find_if(results_.begin(), results_.end(), [](const absl::Status& result) { return !result.ok(); });
    return failed == results_.end() ? absl::OkStatus() : *failed;
  }

 private:
  const core::StepProgram& program_;
  const std::span<const core::StepRow> rows_;
  std::vector<absl::Status> results_;  // of each part, written by who took it
  std::atomic<size_t> next_{0}, done_{0};
};

}  // namespace lstm::server
