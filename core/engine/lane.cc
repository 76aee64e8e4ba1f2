// SPDX-License-Identifier: MIT
#include "core/engine/lane.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/prefetch.h"

namespace lstm::core {
namespace {

// A block of fewer steps reads too few weights less to be worth its sums' way through memory.
constexpr size_t kFewestSteps = 4;
// So many steps a block at least where pieces are larger than kPieceCost anyway: what meets the input is then an eighth.
constexpr size_t kStepsOfLargeModels = 8;

// Of the states between the steps of a block: 16 MiB. A model with more state has smaller blocks, or none.
constexpr size_t kMostStateFloats = size_t{4} << 20;

// True when no float has all exponent bits set. Without an early exit, so that the compiler makes vectors of it.
bool AllFinite(const float* values, size_t n) {
  uint32_t bad = 0;
  for (size_t i = 0; i < n; ++i) {
    bad |= static_cast<uint32_t>((std::bit_cast<uint32_t>(values[i]) & 0x7f800000u) == 0x7f800000u);
  }
  return bad == 0;
}

}  // namespace

Lane::Lane(const StepProgram* program, BatchRunner* runner) : program_(program), runner_(runner), scratch_(program->MakeScratch()) {
  const auto batch = static_cast<size_t>(program->max_batch());
  Reserve(batch_, batch);
  const size_t states = kMostStateFloats / std::max<size_t>(program->state_floats(), 1);
  block_limit_ = std::min({StepProgram::kMaxBlockRows, batch, states});
  if (block_limit_ >= kFewestSteps) block_ = program->MakeBlock();
  if (block_ == nullptr) return;
  Reserve(block_rows_, block_limit_);
  block_states_ = AlignedBuffer<float>(block_limit_ * program->state_floats());
}

void Lane::Reserve(Rows& rows, size_t n) const {
  rows.rows.reserve(n);
  rows.inputs.resize(n * program_->inputs().size());
  rows.outputs.resize(n * program_->outputs().size());
}

StepProgram::Scratch& Lane::scratch() {
  if (stepping_ == 0) return *scratch_;
  if (spare_ == nullptr) spare_ = program_->MakeScratch();
  return *spare_;
}

void Lane::Add(Turn* turn) {
  turns_.push_back(turn);
  steps_left_ += turn->steps;
}

bool Lane::Remove(Turn* turn) {
  // Nothing of a block counts before all of it is done: the others begin theirs again.
  if (std::erase(block_turns_, turn) > 0) {
    // Behind those whose step is half done: its rows and the first turns are the same, one by one.
    turns_.insert(turns_.begin() + static_cast<std::ptrdiff_t>(stepping_), block_turns_.begin(), block_turns_.end());
    block_turns_.clear();
    at_once_ = true;
    steps_left_ -= turn->steps - turn->done;
    return true;
  }
  const auto at = std::find(turns_.begin(), turns_.end(), turn);
  if (at == turns_.end()) return false;
  if (at - turns_.begin() < static_cast<std::ptrdiff_t>(stepping_)) {  // the others begin their step again
    stepping_ = 0;
    at_once_ = true;
  }
  turns_.erase(at);
  steps_left_ -= turn->steps - turn->done;
  return true;
}

void Lane::AddRow(Rows& to, const Turn& turn, uint32_t step, const float* state_in, float* state_out) const {
  const auto& in = program_->inputs();
  const auto& out = program_->outputs();
  const size_t r = to.rows.size();
  const size_t answer_step = turn.last_step_only ? 0 : step;
  const bool answered = !turn.last_step_only || step + 1 == turn.steps;
  for (size_t i = 0; i < in.size(); ++i) to.inputs[r * in.size() + i] = turn.inputs[i] + step * in[i].step_bytes;
  const size_t count = turn.outputs.size();
  for (size_t o = 0; o < count; ++o) {
    std::byte* base = turn.outputs[o];
    to.outputs[r * out.size() + o] = answered && base != nullptr ? base + answer_step * out[o].step_bytes : nullptr;
  }
  to.rows.push_back({state_in, state_out, to.inputs.data() + r * in.size(), to.outputs.data() + r * out.size(), count});
}

// The step's new state and answer must be numbers: what is not would stay in the session for ever.
absl::Status Lane::CheckFinite(uint32_t step, const StepRow& row) const {
  if (!AllFinite(row.state_out, program_->state_floats())) {
    return absl::InvalidArgumentError(absl::StrCat("step ", step, " of the turn gave a state that is not finite"));
  }
  const auto& out = program_->outputs();
  for (size_t o = 0; o < std::min(out.size(), row.output_count); ++o) {
    const std::byte* values = row.outputs[o];
    if (values != nullptr && out[o].dtype == DType::kF32 &&
        !AllFinite(reinterpret_cast<const float*>(values), out[o].step_bytes / sizeof(float))) {
      return absl::InvalidArgumentError(absl::StrCat("step ", step, " of the turn gave an output '", out[o].name, "' that is not finite"));
    }
  }
  return absl::OkStatus();
}

size_t Lane::Together() const {
  size_t n = std::min(turns_.size(), static_cast<size_t>(program_->max_batch()));
  for (size_t r = 0; r < n; ++r) {
    if (turns_[r]->alone) n = std::max<size_t>(r, 1);
  }
  return n;
}

size_t Lane::StepsAtOnce(size_t together) const {
  if (block_ == nullptr || !block_turns_.empty()) return 1;
  const uint64_t cost = std::max<uint64_t>(program_->step_cost(), 1) * together;
  size_t steps = std::min<size_t>(block_limit_ / together, std::max<uint64_t>(kStepsOfLargeModels, StepProgram::kPieceCost / cost));
  for (size_t r = 0; r < together; ++r) steps = std::min<size_t>(steps, turns_[r]->steps - turns_[r]->done);
  return steps < kFewestSteps ? 1 : steps;
}

size_t Lane::Run(std::vector<Turn*>& finished, std::span<Turn* const>& running) {
  if (stepping_ > 0) return ContinueSteps(finished, running);
  if (!block_turns_.empty() && (turns_.empty() || !others_first_)) {
    others_first_ = true;
    return RunPiece(finished, running);
  }
  others_first_ = false;
  const size_t n = Together();
  const size_t steps = at_once_ ? 1 : StepsAtOnce(n);
  if (steps == 1) return BeginSteps(n, finished, running);
  BeginBlock(n, steps);
  others_first_ = true;
  return RunPiece(finished, running);
}

size_t Lane::BeginSteps(size_t n, std::vector<Turn*>& finished, std::span<Turn* const>& running) {
  const bool at_once = std::exchange(at_once_, false);
  batch_.rows.clear();
  for (size_t r = 0; r < n; ++r) {
    if (r + 2 < n) Prefetch(turns_[r + 2], sizeof(Turn));
    const Turn& turn = *turns_[r];
    AddRow(batch_, turn, turn.done, turn.new_state != nullptr ? turn.new_state : turn.state, turn.scratch[turn.done % 2]);
  }
  if (runner_ != nullptr) {
    running = {turns_.data(), n};
    const std::optional<absl::Status> run = runner_->Run(*program_, batch_.rows, *scratch_);
    running = {};
    if (run) return FinishSteps(*run, n, finished);
  }
  if (at_once) {
    running = {turns_.data(), n};
    const absl::Status run = program_->Run(batch_.rows, *scratch_);
    running = {};
    return FinishSteps(run, n, finished);
  }
  program_->Begin(batch_.rows, *scratch_);
  stepping_ = n;
  return ContinueSteps(finished, running);
}

size_t Lane::ContinueSteps(std::vector<Turn*>& finished, std::span<Turn* const>& running) {
  running = {turns_.data(), stepping_};
  const absl::StatusOr<bool> all = program_->Continue(*scratch_);
  running = {};
  if (all.ok() && !*all) return 0;
  return FinishSteps(all.status(), std::exchange(stepping_, 0), finished);
}

size_t Lane::FinishSteps(const absl::Status& run, size_t n, std::vector<Turn*>& finished) {
  // Turns that go on keep their order behind those that did not fit, so that none waits for ever.
  size_t going_on = 0;
  for (size_t r = 0; r < n; ++r) {
    if (r + 2 < n) Prefetch(turns_[r + 2], sizeof(Turn));  // the batch's weights have pushed it out
    Turn* turn = turns_[r];
    turn->status = run.ok() ? CheckFinite(turn->done, batch_.rows[r]) : run;
    turn->new_state = batch_.rows[r].state_out;
    turn->batch_rows = static_cast<uint32_t>(n);
    const uint32_t before = turn->done++;
    const bool over = !turn->status.ok() || turn->done == turn->steps;
    steps_left_ -= (over ? turn->steps : turn->done) - before;
    if (over) {
      finished.push_back(turn);
    } else {
      if (turn->on_progress != nullptr) turn->on_progress(*turn);
      turns_[going_on++] = turn;
    }
  }
  const auto begin = turns_.begin();
  const auto ran = begin + static_cast<std::ptrdiff_t>(n);
  turns_.erase(begin + static_cast<std::ptrdiff_t>(going_on), ran);
  std::rotate(begin, begin + static_cast<std::ptrdiff_t>(going_on), turns_.end());
  return n;
}

void Lane::BeginBlock(size_t n, size_t steps) {
  block_turns_.assign(turns_.begin(), turns_.begin() + static_cast<std::ptrdiff_t>(n));
  turns_.erase(turns_.begin(), turns_.begin() + static_cast<std::ptrdiff_t>(n));
  block_rows_.rows.clear();
  for (size_t k = 0; k < steps; ++k) {
    for (size_t b = 0; b < n; ++b) {
      const Turn& turn = *block_turns_[b];
      const size_t r = k * n + b;
      const float* before = k > 0 ? block_rows_.rows[r - n].state_out : turn.new_state != nullptr ? turn.new_state : turn.state;
      float* after = block_states_.data() + r * program_->state_floats();
      // The last one where it belongs, unless the first one is read from there.
      float* const last = turn.scratch[(turn.done + steps - 1) % 2];
      if (k + 1 == steps && last != turn.new_state) after = last;
      AddRow(block_rows_, turn, turn.done + static_cast<uint32_t>(k), before, after);
    }
  }
  block_->Begin(block_rows_.rows, n);
}

size_t Lane::RunPiece(std::vector<Turn*>& finished, std::span<Turn* const>& running) {
  running = block_turns_;
  const absl::StatusOr<bool> all = block_->Continue();
  running = {};
  if (all.ok() && !*all) return 0;
  const size_t n = block_turns_.size(), steps = block_rows_.rows.size() / n;
  for (size_t b = 0; b < n; ++b) {
    Turn* turn = block_turns_[b];
    float* const to = turn->scratch[(turn->done + steps - 1) % 2];
    turn->status = all.status();
    const uint32_t before = turn->done;
    for (size_t k = 0; k < steps && turn->status.ok(); ++k, ++turn->done) turn->status = CheckFinite(turn->done, block_rows_.rows[k * n + b]);
    turn->batch_rows = static_cast<uint32_t>(n);
    const float* const state = block_rows_.rows[(steps - 1) * n + b].state_out;
    if (state != to) std::memcpy(to, state, program_->state_floats() * sizeof(float));
    turn->new_state = to;
    const bool over = !turn->status.ok() || turn->done == turn->steps;
    steps_left_ -= (over ? turn->steps : turn->done) - before;
    if (over) {
      finished.push_back(turn);
    } else {
      if (turn->on_progress != nullptr) turn->on_progress(*turn);
      turns_.push_back(turn);
    }
  }
  block_turns_.clear();
  return steps * n;
}

}  // namespace lstm::core
