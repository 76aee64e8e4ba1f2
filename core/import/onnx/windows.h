// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "core/base/shape.h"
#include "core/import/onnx/graph.h"

// Private to core/import/onnx: what convolutions and pools have in common.
namespace lstm::core::onnx {

// One number for each axis behind the channels.
struct Window {
  std::vector<int64_t> kernel, strides, dilations, before, after;

  int64_t Extent(size_t j) const { return (kernel[j] - 1) * dilations[j] + 1; }
};

// All but the kernel, which must be there, from the attributes of a node that reads `shape`.
absl::Status ReadWindow(const NodeView& node, const Shape& shape, Window& w);
inline bool IsSame(std::string_view auto_pad) { return auto_pad == "SAME_UPPER" || auto_pad == "SAME_LOWER"; }
// SAME along time, whose length is not known: with stride 1 the whole reach is shared out among both sides.
void PadSameInTime(std::string_view auto_pad, Window& w, size_t j);

}  // namespace lstm::core::onnx
