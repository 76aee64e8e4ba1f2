// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

// The wire format of Protocol Buffers, read where it lies: no copy of a model's weights is ever made.
namespace lstm::core::onnx {

struct Field {
  uint32_t number = 0;
  uint32_t wire = 0;       // 0 varint, 1 eight bytes, 2 bytes, 5 four bytes
  uint64_t value = 0;      // of wire 0, 1 and 5
  std::string_view bytes;  // of wire 2
};

// The fields of one message, first to last. Does not own the bytes.
class Fields {
 public:
  explicit Fields(std::string_view message) : rest_(message) {}
  // False at the end, and for what is no message: then ok() is false.
  bool Next(Field& field);
  bool ok() const { return ok_; }

 private:
  bool Varint(uint64_t& value);
  bool Fixed(size_t bytes, uint64_t& value);
  std::string_view rest_;
  bool ok_ = true;
};

// Adds the numbers of one occurrence of a repeated int64, packed or not. False where the bytes are none.
bool AppendInts(const Field& field, std::vector<int64_t>& out);
bool AppendFloats(const Field& field, std::vector<float>& out);

}  // namespace lstm::core::onnx
