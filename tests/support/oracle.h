// SPDX-License-Identifier: MIT
#pragma once

#include <vector>

#include "core/model/model.h"

namespace lstm::testing {

using Vector = std::vector<double>;

// A slow, plain interpreter of a model: one session, one step at a time, in double precision, straight from the formulas of
// core/model/model.h. The judge of every engine. Confined to one thread.
class Oracle {
 public:
  explicit Oracle(const core::Model& model);

  void Reset();
  // `inputs`: per model input its elements (ids as numbers). Returns per model output its elements.
  std::vector<Vector> Step(const std::vector<Vector>& inputs);
  // By StateId, after the last step.
  const std::vector<Vector>& state() const { return state_; }
  // By ValueId, of the last step.
  const std::vector<Vector>& values() const { return values_; }

 private:
  Vector Run(const core::Node& node);

  const core::Model& model_;
  std::vector<Vector> values_;  // by ValueId
  std::vector<Vector> state_;
  std::vector<Vector> next_state_;
};

}  // namespace lstm::testing
