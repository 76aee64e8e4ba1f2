// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/shape.h"
#include "core/import/onnx/graph.h"

namespace lstm::core::onnx {

// A constant while a graph is read: floats, or integers (and truth values). Integers of 8 bits are weights, and floats here.
struct Tensor {
  bool is_float = true;
  Shape shape;
  std::vector<float> floats;
  std::vector<int64_t> ints;
  int64_t type = 0;  // TensorProto.DataType, of one that a file stores

  size_t size() const { return is_float ? floats.size() : ints.size(); }
  double At(size_t i) const { return is_float ? static_cast<double>(floats[i]) : static_cast<double>(ints[i]); }
};
using TensorPtr = std::shared_ptr<const Tensor>;

// Integers are sizes, axes and ids: more of them in one tensor are no plumbing.
inline constexpr int64_t kMaxInts = 1 << 18;

// The data of a stored tensor. INVALID_ARGUMENT, naming it, for types without numbers, for data that does not agree with the
// shape, and for floats that are not finite.
absl::StatusOr<TensorPtr> LoadTensor(const StoredTensor& stored);

// The tensor of a file that holds one TensorProto, as ONNX test data does.
absl::StatusOr<Tensor> ParseTensorFile(std::span<const std::byte> file);

bool IsFloatType(int64_t type);
bool IsQuantized(int64_t type);  // integers of 8 bits

}  // namespace lstm::core::onnx
