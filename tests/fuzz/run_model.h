// SPDX-License-Identifier: MIT
#pragma once

#include <cstdlib>
#include <memory>
#include <vector>

#include "core/engine/sequence_run.h"
#include "core/program/step_program.h"

namespace lstm::testing {

// What an importer accepts must compile and run: two steps, and a sequence of three where the model has one. Larger models are
// left, so that executions stay cheap.
inline void RunAccepted(core::Model model) {
  constexpr int64_t kMostElements = 1 << 16;
  const auto small = [](const core::Model& m) {
    int64_t elements = static_cast<int64_t>(m.parameters);
    for (const auto& value : m.values) elements += core::CheckedElementCount(value.shape);
    for (const auto& state : m.state) elements += core::CheckedElementCount(state.shape);
    return elements <= kMostElements;
  };
  const auto shared = std::make_shared<const core::Model>(std::move(model));
  if (shared->not_streamable.empty() && small(*shared)) {
    auto program = core::StepProgram::Compile(shared, {.max_batch = 1, .engine = core::Engine::kFused});
    if (!program.ok()) std::abort();
    const auto scratch = (*program)->MakeScratch();
    core::AlignedBuffer<float> state[2] = {core::AlignedBuffer<float>((*program)->state_floats()), core::AlignedBuffer<float>((*program)->state_floats())};
    std::copy((*program)->initial_state().begin(), (*program)->initial_state().end(), state[0].data());
    std::vector<std::vector<std::byte>> in, out;
    std::vector<const std::byte*> in_at;
    std::vector<std::byte*> out_at;
    for (const auto& port : (*program)->inputs()) in_at.push_back(in.emplace_back(port.step_bytes).data());
    for (const auto& port : (*program)->outputs()) out_at.push_back(out.emplace_back(port.step_bytes).data());
    for (int t = 0; t < 2; ++t) {
      const core::StepRow row{state[t].data(), state[1 - t].data(), in_at.data(), out_at.data()};
      if (!(*program)->Run({&row, 1}, *scratch).ok()) std::abort();
    }
  }
  if (!shared->sequence) return;
  for (const auto& stage : shared->sequence->stages) {
    if (!small(*stage.model)) return;
  }
  const auto program = core::SequenceProgram::Compile(shared, {.max_batch = 1, .engine = core::Engine::kFused});
  if (!program.ok()) std::abort();
  std::vector<std::vector<std::byte>> in;
  for (const auto& port : shared->sequence->inputs) {
    in.emplace_back(port.optional ? 0 : static_cast<size_t>(core::CheckedElementCount(port.shape)) * sizeof(float) * (port.once ? 1 : 3));
  }
  auto run = core::SequenceRun::Make(*program, 3, std::move(in));
  if (!run.ok()) return;  // a length of its own
  core::BatchEngine engine;
  core::Turn turn;
  while ((*run)->Next(turn)) {
    engine.Add(&turn);
    std::vector<core::Turn*> finished;
    while (finished.empty()) engine.RunBatch(finished);
    if (!turn.status.ok()) return;  // numbers that are not finite
    (*run)->Take(turn);
  }
  for (size_t o = 0; o < shared->sequence->outputs.size(); ++o) (*run)->Output(o);
}

}  // namespace lstm::testing
