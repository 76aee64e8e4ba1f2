// SPDX-License-Identifier: MIT
#include "core/engine/sequence_run.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace lstm::core {
namespace {

size_t BytesOf(const Shape& shape) { return static_cast<size_t>(CheckedElementCount(shape)) * sizeof(float); }

}  // namespace

absl::StatusOr<std::unique_ptr<SequenceRun>> SequenceRun::Make(std::shared_ptr<const SequenceProgram> program, uint32_t steps,
                                                               std::vector<std::vector<std::byte>> inputs) {
  const SequenceModel& model = program->sequence();
  if (steps == 0 || inputs.size() != model.inputs.size()) {
    return absl::InvalidArgumentError(absl::StrCat(steps, " steps and ", inputs.size(), " inputs, expected at least one step and ", model.inputs.size()));
  }
  std::unique_ptr<SequenceRun> run(new SequenceRun(std::move(program), steps));
  for (size_t i = 0; i < inputs.size(); ++i) {
    const SequencePort& port = model.inputs[i];
    const size_t expected = BytesOf(port.shape) * (port.once ? 1 : steps);
    if (inputs[i].empty() && port.optional) continue;
    if (inputs[i].size() != expected) {
      return absl::InvalidArgumentError(absl::StrCat("input '", port.name, "' has ", inputs[i].size() / sizeof(float), " values, expected ", expected / sizeof(float),
                                                     port.once ? " for the sequence" : ""));
    }
  }
  for (const SequenceLength& length : model.lengths) {
    if (length.stride > 0) {
      if (steps < length.least) return absl::InvalidArgumentError(absl::StrCat("the sequence has ", steps, " steps, the graph needs at least ", length.least));
      run->lengths_.push_back(static_cast<uint32_t>(length.Of(steps)));
      continue;
    }
    int64_t n = length.constant;
    if (length.input >= 0) {
      const auto i = static_cast<size_t>(length.input);
      int32_t said = static_cast<int32_t>(steps);
      if (!inputs[i].empty()) std::memcpy(&said, inputs[i].data(), sizeof(said));
      n = said;
    }
    if (n < 1 || n > steps) {
      const std::string what = length.input >= 0 ? absl::StrCat("input '", model.inputs[static_cast<size_t>(length.input)].name, "' is ", n, ", expected 1 to ", steps)
                                                 : absl::StrCat("the sequence has ", steps, " steps, the graph expects at least ", n);
      return absl::InvalidArgumentError(what);
    }
    run->lengths_.push_back(static_cast<uint32_t>(n));
  }
  for (const SequenceStage& stage : model.stages) {  // single steps that are read must be there
    for (const auto& [state, read] : stage.states) {
      const uint32_t n = read.stage < 0 ? steps : run->StepsOf(model.stages[static_cast<size_t>(read.stage)]);
      if (read.kind == SequenceRead::kAt && (read.at >= static_cast<int64_t>(n) || -read.at > static_cast<int64_t>(n))) {
        return absl::InvalidArgumentError(absl::StrCat("the sequence has ", n, " steps, the graph reads step ", read.at));
      }
    }
  }
  run->inputs_ = std::move(inputs);
  return run;
}

uint32_t SequenceRun::Frames(const SequenceModel& model, const SequencePort& output, uint32_t steps) {
  if (output.once) return 1;
  if (output.length < 0) return steps;
  const SequenceLength& length = model.lengths[static_cast<size_t>(output.length)];
  return steps < length.least ? 0 : static_cast<uint32_t>(length.Of(steps));
}

uint64_t SequenceRun::Bytes(const SequenceProgram& program, uint32_t steps) {
  uint64_t kept = 0, gathered = 0;
  const SequenceModel& model = program.sequence();
  for (size_t s = 0; s < program.stages().size(); ++s) {
    const auto& stage = program.stages()[s];
    const SequenceLength* length = model.stages[s].length < 0 ? nullptr : &model.lengths[static_cast<size_t>(model.stages[s].length)];
    const uint64_t frames = length != nullptr && length->stride > 0 ? (steps < length->least ? 0 : static_cast<uint64_t>(length->Of(steps))) : steps;
    uint64_t own = 4 * stage->state_floats() * sizeof(float);
    for (const auto& port : stage->inputs()) own += frames * port.step_bytes;
    for (size_t o = 0; o < stage->declared_outputs(); ++o) kept += frames * stage->outputs()[o].step_bytes;
    kept += stage->state_floats() * sizeof(float);
    gathered = std::max(gathered, own);
  }
  return kept + gathered;
}

uint32_t SequenceRun::StepsOf(const SequenceStage& stage) const {
  return stage.once ? 1 : stage.length < 0 ? steps_ : lengths_[static_cast<size_t>(stage.length)];
}

std::pair<std::span<const std::byte>, size_t> SequenceRun::SourceOf(const SequenceRead& read) const {
  const auto port = static_cast<size_t>(read.port);
  if (read.stage < 0) return {inputs_[port], BytesOf(program_->sequence().inputs[port].shape)};
  const auto s = static_cast<size_t>(read.stage);
  return {done_[s].outputs[port], program_->stages()[s]->outputs()[port].step_bytes};
}

void SequenceRun::Gather(const SequenceRead& read, uint32_t steps, std::byte* to) const {
  const auto [source, bytes] = SourceOf(read);
  const auto n = static_cast<int64_t>(source.size() / bytes);
  // From its end: the end of what both have.
  const int64_t end = std::min<int64_t>(n, steps);
  for (int64_t t = 0; t < steps; ++t) {
    const int64_t from = read.reversed ? end - 1 - t : t * read.stride + read.shift;
    if (from >= 0 && from < n) {
      std::memcpy(to + static_cast<size_t>(t) * bytes, source.data() + static_cast<size_t>(from) * bytes, bytes);
    } else {
      std::memset(to + static_cast<size_t>(t) * bytes, 0, bytes);
    }
  }
}

void SequenceRun::Once(const SequenceRead& read, std::byte* to, size_t bytes) const {
  if (read.kind == SequenceRead::kAt) {
    const auto [source, step] = SourceOf(read);
    const auto n = static_cast<int64_t>(source.size() / step);
    std::memcpy(to, source.data() + static_cast<size_t>(read.at < 0 ? n + read.at : read.at) * step, bytes);
  } else if (read.stage < 0) {
    const auto& input = inputs_[static_cast<size_t>(read.port)];
    std::memset(to, 0, bytes);  // left out
    if (!input.empty()) std::memcpy(to, input.data() + static_cast<size_t>(read.offset) * sizeof(float), bytes);
  } else {
    const auto s = static_cast<size_t>(read.stage);
    const float* state = done_[s].state.data() + program_->stages()[s]->state_offset(read.port) + read.offset;
    std::memcpy(to, state, bytes);
  }
}

bool SequenceRun::Next(Turn& turn) {
  const SequenceModel& model = program_->sequence();
  if (done_.size() == model.stages.size()) return false;
  const SequenceStage& stage = model.stages[done_.size()];
  const StepProgram& program = *program_->stages()[done_.size()];
  const uint32_t steps = StepsOf(stage);
  turn.program = &program;
  turn.steps = steps;
  turn.last_step_only = false;
  turn.inputs.clear();
  gathered_.clear();
  for (size_t i = 0; i < stage.inputs.size(); ++i) {
    const SequenceRead& read = stage.inputs[i];
    const auto [source, bytes] = SourceOf(read);
    if (!read.reversed && read.shift == 0 && read.stride == 1 && source.size() >= steps * bytes) {
      turn.inputs.push_back(source.data());
      continue;
    }
    gathered_.emplace_back(steps * bytes);
    Gather(read, steps, gathered_.back().data());
    turn.inputs.push_back(gathered_.back().data());
  }
  state_ = AlignedBuffer<float>(program.state_floats());
  for (AlignedBuffer<float>& row : rows_) row = AlignedBuffer<float>(program.state_floats());
  std::copy(program.initial_state().begin(), program.initial_state().end(), state_.data());
  for (const auto& [state, read] : stage.states) {
    Once(read, reinterpret_cast<std::byte*>(state_.data() + program.state_offset(state)), BytesOf(stage.model->state[static_cast<size_t>(state)].shape));
  }
  Done& done = done_.emplace_back();
  done.steps = steps;
  turn.outputs.assign(program.outputs().size(), nullptr);
  for (size_t o = 0; o < program.declared_outputs(); ++o) {
    done.outputs.emplace_back(steps * program.outputs()[o].step_bytes);
    turn.outputs[o] = done.outputs.back().data();
  }
  turn.state = state_.data();
  for (size_t r = 0; r < 2; ++r) turn.scratch[r] = rows_[r].data();
  return true;
}

void SequenceRun::Take(const Turn& turn) {
  Done& done = done_.back();
  done.state = std::move(rows_[turn.new_state == rows_[0].data() ? 0 : 1]);
  gathered_.clear();
}

std::vector<std::byte> SequenceRun::Output(size_t output) const {
  const SequencePort& port = program_->sequence().outputs[output];
  const SequenceRead& read = program_->sequence().results[output];
  const uint32_t frames = Frames(program_->sequence(), port, steps_);
  std::vector<std::byte> out(BytesOf(port.shape) * frames);
  if (port.once) {
    Once(read, out.data(), out.size());
  } else {
    Gather(read, frames, out.data());
  }
  return out;
}

}  // namespace lstm::core
