// SPDX-License-Identifier: MIT
#include "core/import/onnx/arrange.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace lstm::core::onnx {

std::vector<int64_t> Strides(const Shape& shape) {
  std::vector<int64_t> out(shape.size(), 1);
  for (size_t a = shape.size(); a > 1; --a) out[a - 2] = out[a - 1] * shape[a - 1];
  return out;
}

namespace {

std::vector<int64_t> Run(int64_t begin, int64_t count, int64_t stride) {
  std::vector<int64_t> out;
  for (int64_t i = 0; i < count; ++i) out.push_back((begin + i) * stride);
  return out;
}

}  // namespace

Arrangement Same(const Shape& shape) {
  const auto strides = Strides(shape);
  Arrangement out;
  for (size_t a = 0; a < shape.size(); ++a) out.axes.push_back(Run(0, shape[a], strides[a]));
  return out;
}

Arrangement Transposed(const Shape& shape, const std::vector<int64_t>& perm) {
  Arrangement same = Same(shape), out;
  for (int64_t axis : perm) out.axes.push_back(same.axes[static_cast<size_t>(axis)]);
  return out;
}

Arrangement Sliced(const Shape& shape, size_t axis, int64_t begin, int64_t count, int64_t step) {
  Arrangement out = Same(shape);
  const int64_t stride = Strides(shape)[axis];
  out.axes[axis].clear();
  for (int64_t i = 0; i < count; ++i) out.axes[axis].push_back((begin + i * step) * stride);
  return out;
}

Arrangement Gathered(const Shape& shape, size_t axis, const std::vector<int64_t>& index) {
  Arrangement out = Same(shape);
  const int64_t stride = Strides(shape)[axis];
  out.axes[axis].clear();
  for (int64_t i : index) out.axes[axis].push_back(i * stride);
  return out;
}

absl::StatusOr<Shape> BroadcastShape(const Shape& a, const Shape& b) {
  Shape out(std::max(a.size(), b.size()), 1);
  for (size_t i = 0; i < out.size(); ++i) {
    const int64_t x = i < a.size() ? a[a.size() - 1 - i] : 1, y = i < b.size() ? b[b.size() - 1 - i] : 1;
    if (x != y && x != 1 && y != 1) {
      return absl::InvalidArgumentError(absl::StrCat("shapes ", ShapeString(a), " and ", ShapeString(b), " do not go together"));
    }
    out[out.size() - 1 - i] = x == 1 ? y : x;
  }
  return out;
}

absl::StatusOr<Arrangement> Broadcast(const Shape& shape, const Shape& target) {
  const auto strides = Strides(shape);
  Arrangement out;
  if (shape.size() > target.size()) {
    return absl::InvalidArgumentError(absl::StrCat("shape ", ShapeString(shape), " does not spread to ", ShapeString(target)));
  }
  const size_t lead = target.size() - shape.size();
  for (size_t a = 0; a < target.size(); ++a) {
    const bool spread = a < lead || shape[a - lead] == 1;
    if (!spread && shape[a - lead] != target[a]) {
      return absl::InvalidArgumentError(absl::StrCat("shape ", ShapeString(shape), " does not spread to ", ShapeString(target)));
    }
    out.axes.push_back(Run(0, target[a], spread ? 0 : strides[a - lead]));
  }
  return out;
}

absl::StatusOr<Arrangement> Padded(const Shape& shape, const std::vector<int64_t>& before, const std::vector<int64_t>& after, PadMode mode) {
  const auto strides = Strides(shape);
  Arrangement out;
  for (size_t a = 0; a < shape.size(); ++a) {
    auto& axis = out.axes.emplace_back();
    const int64_t n = shape[a];
    constexpr int64_t kMost = 1 << 24;
    if (before[a] > kMost || after[a] > kMost || before[a] < -n || after[a] < -n || n + before[a] + after[a] < 0 || (mode == PadMode::kReflect && (before[a] >= n || after[a] >= n))) {
      return absl::InvalidArgumentError(absl::StrCat("pads axis ", a, " of ", n, " by ", before[a], " and ", after[a]));
    }
    for (int64_t i = -before[a]; i < n + after[a]; ++i) {
      const bool inside = i >= 0 && i < n;
      int64_t from = i;
      if (!inside && mode == PadMode::kConstant) from = kFill;
      if (!inside && mode == PadMode::kReflect) from = i < 0 ? -i : 2 * (n - 1) - i;
      if (!inside && mode == PadMode::kEdge) from = i < 0 ? 0 : n - 1;
      axis.push_back(from == kFill ? kFill : from * strides[a]);
    }
  }
  return out;
}

Arrangement Tiled(const Shape& shape, const std::vector<int64_t>& repeats) {
  Arrangement out = Same(shape);
  for (size_t a = 0; a < shape.size(); ++a) {
    const std::vector<int64_t> once = out.axes[a];
    out.axes[a].clear();
    for (int64_t r = 0; r < repeats[a]; ++r) out.axes[a].insert(out.axes[a].end(), once.begin(), once.end());
  }
  return out;
}

}  // namespace lstm::core::onnx
