// SPDX-License-Identifier: MIT
#pragma once

#include "absl/status/statusor.h"
#include "core/model/model.h"

namespace lstm::core {

// Exporters that have no op for a cell write its formulas out: products, gates cut out of them, sigmoids, products and sums,
// over state that is read and written. Where such parts are exactly an LSTM (with peepholes or without) or a GRU (reset before
// or after the product) they become that op, with state tensors of its own; where anything differs they stay as they are. The
// numbers are the same but for rounding.
absl::StatusOr<Model> FuseCells(Model model);

}  // namespace lstm::core
