// SPDX-License-Identifier: MIT
#pragma once

#include "core/model/model.h"

namespace lstm::core {

// Products whose weights meet pairs of inputs alike, as those of a Fourier transform do, which exporters write as a convolution, and of filters of
// linear phase: a row of weights with w[a] == w[b] for every pair needs a + b alone, one with w[a] == -w[b] needs a - b. Where all rows of a
// LinearOp are of these two kinds, and the pairs are the same in each, it becomes two products over sums and differences, of half the weights, and
// each of these perhaps two again. Pairs may also be multiples of one another, a + r b and a - r b: so the window of a transform leaves them. Rows and
// columns of zeros go. The numbers are the same but for rounding; `parameters` stays what was trained.
void FoldSymmetry(Model& model);

}  // namespace lstm::core
