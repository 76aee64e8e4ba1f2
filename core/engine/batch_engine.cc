// SPDX-License-Identifier: MIT
#include "core/engine/batch_engine.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"

namespace lstm::core {
namespace {

// True when no float has all exponent bits set. Without an early exit, so that the compiler makes vectors of it.
bool AllFinite(const float* values, size_t n) {
  uint32_t bad = 0;
  for (size_t i = 0; i < n; ++i) {
    bad |= static_cast<uint32_t>((std::bit_cast<uint32_t>(values[i]) & 0x7f800000u) == 0x7f800000u);
  }
  return bad == 0;
}

}  // namespace

struct BatchEngine::Lane {
  const StepProgram* program;
  std::unique_ptr<StepProgram::Scratch> scratch;
  std::vector<Turn*> turns;  // in order of arrival
  std::vector<StepRow> rows;
  std::vector<const std::byte*> inputs;  // [max_batch, program inputs]
  std::vector<std::byte*> outputs;       // [max_batch, program outputs]

  explicit Lane(const StepProgram* p) : program(p), scratch(p->MakeScratch()) {
    const auto n = static_cast<size_t>(p->max_batch());
    rows.reserve(n);
    inputs.resize(n * p->inputs().size());
    outputs.resize(n * p->outputs().size());
  }

  void FillRow(const Turn& turn, size_t r) {
    const auto& in = program->inputs();
    const auto& out = program->outputs();
    const size_t answer_step = turn.last_step_only ? 0 : turn.done;
    const bool answered = !turn.last_step_only || turn.done + 1 == turn.steps;
    for (size_t i = 0; i < in.size(); ++i) inputs[r * in.size() + i] = turn.inputs[i] + turn.done * in[i].step_bytes;
    for (size_t o = 0; o < out.size(); ++o) {
      std::byte* base = turn.outputs[o];
      outputs[r * out.size() + o] = answered && base != nullptr ? base + answer_step * out[o].step_bytes : nullptr;
    }
    rows.push_back({turn.new_state != nullptr ? turn.new_state : turn.state, turn.scratch[turn.done % 2],
                    inputs.data() + r * in.size(), outputs.data() + r * out.size()});
  }

  // The step's new state and answer must be numbers: what is not would stay in the session for ever.
  absl::Status CheckFinite(const Turn& turn, size_t r) const {
    if (!AllFinite(rows[r].state_out, program->state_floats())) {
      return absl::InvalidArgumentError(absl::StrCat("step ", turn.done, " of the turn gave a state that is not finite"));
    }
    const auto& out = program->outputs();
    for (size_t o = 0; o < out.size(); ++o) {
      const std::byte* values = rows[r].outputs[o];
      if (values != nullptr && out[o].dtype == DType::kF32 &&
          !AllFinite(reinterpret_cast<const float*>(values), out[o].step_bytes / sizeof(float))) {
        return absl::InvalidArgumentError(
            absl::StrCat("step ", turn.done, " of the turn gave an output '", out[o].name, "' that is not finite"));
      }
    }
    return absl::OkStatus();
  }
};

BatchEngine::BatchEngine() = default;
BatchEngine::~BatchEngine() = default;

BatchEngine::Lane& BatchEngine::LaneOf(const StepProgram* program) {
  for (const auto& lane : lanes_) {
    if (lane->program == program) return *lane;
  }
  return *lanes_.emplace_back(std::make_unique<Lane>(program));
}

void BatchEngine::Add(Turn* turn) {
  turn->status = absl::OkStatus();
  turn->new_state = nullptr;
  turn->done = 0;
  LaneOf(turn->program).turns.push_back(turn);
  ++waiting_;
}

void BatchEngine::Remove(Turn* turn) {
  waiting_ -= std::erase(LaneOf(turn->program).turns, turn);
}

size_t BatchEngine::RunBatch(std::vector<Turn*>& finished) {
  if (waiting_ == 0) return 0;
  while (lanes_[next_ % lanes_.size()]->turns.empty()) ++next_;
  Lane& lane = *lanes_[next_++ % lanes_.size()];

  size_t n = std::min(lane.turns.size(), static_cast<size_t>(lane.program->max_batch()));
  for (size_t r = 0; r < n; ++r) {
    if (lane.turns[r]->alone) n = std::max<size_t>(r, 1);
  }
  lane.rows.clear();
  for (size_t r = 0; r < n; ++r) lane.FillRow(*lane.turns[r], r);
  running_ = {lane.turns.data(), n};
  const absl::Status run = lane.program->Run(lane.rows, *lane.scratch);
  running_ = {};

  // Turns that go on keep their order behind those that did not fit, so that none waits for ever.
  size_t going_on = 0;
  for (size_t r = 0; r < n; ++r) {
    Turn* turn = lane.turns[r];
    turn->status = run.ok() ? lane.CheckFinite(*turn, r) : run;
    turn->new_state = lane.rows[r].state_out;
    turn->batch_rows = static_cast<uint32_t>(n);
    ++turn->done;
    if (!turn->status.ok() || turn->done == turn->steps) {
      finished.push_back(turn);
      --waiting_;
    } else {
      lane.turns[going_on++] = turn;
    }
  }
  const auto begin = lane.turns.begin();
  const auto ran = begin + static_cast<std::ptrdiff_t>(n);
  lane.turns.erase(begin + static_cast<std::ptrdiff_t>(going_on), ran);
  std::rotate(begin, begin + static_cast<std::ptrdiff_t>(going_on), lane.turns.end());
  return n;
}

void BatchEngine::Forget(const StepProgram* program) {
  std::erase_if(lanes_, [&](const auto& lane) { return lane->program == program; });
  next_ = 0;
}

}  // namespace lstm::core
