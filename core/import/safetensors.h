// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "core/base/shape.h"
#include "core/model/model.h"

namespace lstm::core {

// The tensors of one safetensors file: 8 bytes of header length (little-endian), a JSON header, the tensors' bytes.
// Immutable. Does not own the bytes, which must outlive it. Every length of the file is checked before it is believed.
class Safetensors {
 public:
  enum class Type { kF32, kF16, kBF16, kF64 };
  struct Entry {
    Type type;
    Shape shape;
    std::span<const std::byte> bytes;
  };

  // INVALID_ARGUMENT, naming the tensor, for anything that is not a whole and well-formed file: truncated; header too
  // long, too deep or not of the form; names twice; types other than F32, F16, BF16 and F64; bytes that do not agree with
  // the shape, overlap, leave holes or do not fill the file.
  static absl::StatusOr<Safetensors> Parse(std::span<const std::byte> file);

  const std::map<std::string, Entry>& entries() const { return entries_; }
  // What all of them have as floats.
  uint64_t float_bytes() const { return float_bytes_; }

  // The tensor as floats. NOT_FOUND names what is missing. INVALID_ARGUMENT for a value that is not finite as a float.
  absl::StatusOr<ConstantPtr> Load(const std::string& name) const;

 private:
  std::map<std::string, Entry> entries_;
  uint64_t float_bytes_ = 0;
};

}  // namespace lstm::core
