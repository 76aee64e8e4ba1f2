// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <vector>

#include "core/base/aligned_buffer.h"
#include "core/engine/sequence_run.h"
#include "server/shard/shard.h"

namespace lstm::server {

// A whole sequence through a temporary state: one turn of the engine like any other, so that its steps share batches with
// those of the sessions and hold nobody up. Owned by its shard until it is done.
struct PredictCall {
  TurnRecord record;
  ServedModelPtr model;
  std::vector<uint32_t> selected;          // of the program's outputs, or of the sequence's
  std::unique_ptr<core::SequenceRun> run;  // of a model that has a sequence program: a turn for each of its stages
  bool last_step_only = false;
  uint32_t steps = 0;  // of the sequence
  core::AlignedBuffer<float> state;
  v1::PredictResponse* response = nullptr;
  bool return_state = false;
  Shard::PredictDone done;
};

}  // namespace lstm::server
