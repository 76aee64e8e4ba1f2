// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/model/int8_scales.h"
#include "core/model/model.h"

namespace lstm::core {

// A matrix that is rounded: of a recurrent layer, Linear or Conv1d of the steps (not of the stages of whole sequences).
struct RoundedMatrix {
  std::string name;  // "<layer>.weight", "<layer>.recurrent" or "<layer>.projection"
  size_t node;       // of the model
  ConstantPtr values;

  int64_t rows() const { return values->shape[0]; }
  size_t width() const { return values->values.size() / static_cast<size_t>(rows()); }
  std::span<const float> row(int64_t r) const { return values->values.span().subspan(static_cast<size_t>(r) * width(), width()); }
};
std::vector<RoundedMatrix> RoundedMatrices(const Model& model);

// Rounds the matrices of recurrent layers, Linear and Conv1d to the nearest numbers that bfloat16 holds, ties to even; biases,
// peepholes, embeddings and everything computed stay as they are. The fused engine keeps such weights in half the bytes
// (core/kernels/fused/jobs.h) and computes the bits that it would from the same numbers in 32 bits.
void RoundWeightsToBfloat16(Model& model);

// The same to whole numbers from -127 to 127, times one number for each row: that of a few up to the largest of the row, which would
// clip nothing, with the least squares of what is lost. A row that is too small or not finite stays as it is. They lie in a quarter of
// the bytes.
void RoundWeightsToInt8(Model& model);

// The same with these scales; stages of whole sequences have those of least squares all the same. INVALID_ARGUMENT, naming the tensor,
// unless there is one for each row of each of RoundedMatrices, as CheckScale wants it, and nothing else; the model is then as it was.
absl::Status RoundWeightsToInt8(Model& model, const RowScales& scales);

}  // namespace lstm::core
