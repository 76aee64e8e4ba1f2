// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "core/check/walk.h"
#include "core/model/round_weights.h"
#include "core/program/step_program.h"

namespace lstm::core {

// How much each column of a matrix counts: the mean square of what it met over recorded steps. Confined to one thread.
//
// A column that met next to nothing counts as a thousandth of the average all the same: what was not recorded may come yet. The columns
// of a projection, whose input cannot be traced, count alike, as do those of a matrix that met nothing but zeros. A GRU that resets before
// the product is measured by h, not r*h. The taps of a convolution count alike: each meets every frame in its turn.
class InputSquares {
 public:
  explicit InputSquares(std::shared_ptr<const StepProgram> program);

  // One more session, from the initial state. INVALID_ARGUMENT where what a matrix meets is not finite.
  absl::Status Run(const std::vector<std::vector<std::byte>>& inputs, uint64_t steps);

  // RoundedMatrices of the program's model.
  const std::vector<RoundedMatrix>& matrices() const { return matrices_; }
  // Of the columns of one row of matrices()[m], as they lie in it.
  std::vector<double> Row(size_t m, int64_t row) const;

 private:
  static constexpr size_t kNone = SIZE_MAX;
  struct Meets {  // what a matrix meets: one of these, or nothing that is known
    size_t output = kNone;
    size_t input = kNone;
    StateId state = -1;
    std::vector<double> sums = {};  // by channel
    uint64_t count = 0;
  };
  static Meets MeetsOf(const StepProgram& program, const RoundedMatrix& matrix);
  void Add(const std::vector<std::vector<std::byte>>& inputs, uint64_t t, bool before);

  const std::shared_ptr<const StepProgram> program_;
  const std::vector<RoundedMatrix> matrices_;
  std::vector<Meets> meets_;  // by matrix
  std::unique_ptr<Walk> walk_;
};

}  // namespace lstm::core
