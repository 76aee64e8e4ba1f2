// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "core/base/shape.h"

namespace lstm::core {

// An array of a .npy file (NumPy's format, versions 1 to 3), in row-major order.
struct NpyArray {
  enum class Type { kF32, kF64, kI32, kI64 };
  Type type = Type::kF32;
  Shape shape;
  std::vector<std::byte> data;

  // The elements converted; INVALID_ARGUMENT for integers of 64 bits that do not fit.
  std::vector<float> ToFloats() const;
  std::vector<int64_t> ToInts() const;
};

// INVALID_ARGUMENT for what is not a whole, well-formed file of little-endian float32, float64, int32 or int64.
absl::StatusOr<NpyArray> ParseNpy(std::span<const std::byte> file);
absl::StatusOr<NpyArray> ReadNpy(const std::string& path);

// The bytes of a version 1 file.
std::string FormatNpy(const Shape& shape, std::span<const float> values);

}  // namespace lstm::core
