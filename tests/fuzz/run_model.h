// SPDX-License-Identifier: MIT
#pragma once

#include <vector>

#include "core/model/sequence.h"
#include "tests/support/oracle.h"

namespace lstm::testing {

// What an importer accepts must be a model that can be run: two steps of it, and of each stage where it is of whole sequences,
// by the plain interpreter, which looks at every weight where it says it is. Larger models are left, so that executions stay cheap.
inline void RunAccepted(const core::Model& model) {
  constexpr int64_t kMostElements = 1 << 16;
  const auto run = [](const core::Model& m) {
    int64_t elements = static_cast<int64_t>(m.parameters);
    for (const auto& value : m.values) elements += core::CheckedElementCount(value.shape);
    for (const auto& state : m.state) elements += core::CheckedElementCount(state.shape);
    if (elements > kMostElements) return;
    Oracle oracle(m);
    std::vector<Vector> inputs;
    for (const auto& port : m.inputs) inputs.emplace_back(static_cast<size_t>(core::CheckedElementCount(m.values[static_cast<size_t>(port.value)].shape)), 0.0);
    for (int t = 0; t < 2; ++t) oracle.Step(inputs);
  };
  if (model.not_streamable.empty()) run(model);
  if (!model.sequence) return;
  for (const auto& stage : model.sequence->stages) run(*stage.model);
}

}  // namespace lstm::testing
