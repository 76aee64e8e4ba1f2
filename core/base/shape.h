// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace lstm::core {

// Dimensions of a tensor, row-major; empty for a scalar.
using Shape = std::vector<int64_t>;

// No tensor of ours has more elements: keeps every later product of a count and a width inside int64.
inline constexpr int64_t kMaxElements = int64_t{1} << 40;

// The product of the dimensions (1 for a scalar). INVALID_ARGUMENT for a negative dimension or a product above
// kMaxElements; the message shows the shape.
absl::StatusOr<int64_t> ElementCount(const Shape& shape);

// The same for a shape that was checked before.
int64_t CheckedElementCount(const Shape& shape);

// "[3, 4]"
std::string ShapeString(const Shape& shape);

}  // namespace lstm::core
