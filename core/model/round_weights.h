// SPDX-License-Identifier: MIT
#pragma once

#include "core/model/model.h"

namespace lstm::core {

// Rounds the matrices of recurrent layers, Linear and Conv1d to the nearest numbers that bfloat16 holds, ties to even; biases,
// peepholes, embeddings and everything computed stay as they are. The fused engine keeps such weights in half the bytes
// (core/kernels/fused/jobs.h) and computes the bits that it would from the same numbers in 32 bits.
void RoundWeightsToBfloat16(Model& model);

// The same to whole numbers from -127 to 127, times one number for each row: that of a few up to the largest of the row, which would
// clip nothing, with the least squares of what is lost. A row that is too small or not finite stays as it is. They lie in a quarter of
// the bytes.
void RoundWeightsToInt8(Model& model);

}  // namespace lstm::core
