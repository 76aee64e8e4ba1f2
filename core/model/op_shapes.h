// SPDX-License-Identifier: MIT
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "core/model/model.h"

namespace lstm::core {

// Checks `op` on inputs of the given types and shapes, with its constants and the state tensors of `model` that it names,
// and returns the shape of its value. Pure. INVALID_ARGUMENT says what was expected and what came.
absl::StatusOr<Shape> InferShape(const Op& op, const std::vector<const Value*>& inputs, const Model& model);

}  // namespace lstm::core
