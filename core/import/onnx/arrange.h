// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/shape.h"

// How the elements of one tensor become those of another where nothing is computed: Transpose, Slice, Gather, Expand, Pad, Tile.
namespace lstm::core::onnx {

inline constexpr int64_t kFill = -1;

// Every axis of the result adds its own offset into the source; one kFill makes the element a fill.
struct Arrangement {
  std::vector<std::vector<int64_t>> axes;

  Shape shape() const {
    Shape out;
    for (const auto& axis : axes) out.push_back(static_cast<int64_t>(axis.size()));
    return out;
  }
  // Calls visit(source offset or kFill) for each element of the result, in order.
  template <typename Visit>
  void ForEach(Visit visit) const {
    for (const auto& axis : axes) {
      if (axis.empty()) return;
    }
    std::vector<size_t> at(axes.size(), 0);
    for (;;) {
      int64_t offset = 0;
      for (size_t a = 0; a < axes.size() && offset >= 0; ++a) {
        const int64_t part = axes[a][at[a]];
        offset = part < 0 ? kFill : offset + part;
      }
      visit(offset);
      size_t a = axes.size();
      while (a > 0 && ++at[a - 1] == axes[a - 1].size()) at[--a] = 0;
      if (a == 0) return;
    }
  }
};

std::vector<int64_t> Strides(const Shape& shape);
// Every element where it is.
Arrangement Same(const Shape& shape);
Arrangement Transposed(const Shape& shape, const std::vector<int64_t>& perm);
// `count` items of `axis` from `begin`, every `step`-th.
Arrangement Sliced(const Shape& shape, size_t axis, int64_t begin, int64_t count, int64_t step);
// The items `index` of an axis; one axis of as many, whatever the shape of the index is.
Arrangement Gathered(const Shape& shape, size_t axis, const std::vector<int64_t>& index);
// INVALID_ARGUMENT where `shape` does not broadcast to `target`.
absl::StatusOr<Arrangement> Broadcast(const Shape& shape, const Shape& target);
enum class PadMode { kConstant, kReflect, kEdge };
absl::StatusOr<Arrangement> Padded(const Shape& shape, const std::vector<int64_t>& before, const std::vector<int64_t>& after, PadMode mode);
Arrangement Tiled(const Shape& shape, const std::vector<int64_t>& repeats);

// The shape to which both broadcast. INVALID_ARGUMENT where there is none.
absl::StatusOr<Shape> BroadcastShape(const Shape& a, const Shape& b);

}  // namespace lstm::core::onnx
