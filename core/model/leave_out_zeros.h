// SPDX-License-Identifier: MIT
#pragma once

#include "core/model/model.h"

namespace lstm::core {

// A convolution over axes of the step is a LinearOp over a selection, whose rows at the edges take zeros where the padding is. Rows that meet
// zeros in the same columns become a product of their own, over the other columns alone, with weights of its own, where that saves enough. The numbers
// are the same but for rounding.
void LeaveOutZeros(Model& model);

}  // namespace lstm::core
