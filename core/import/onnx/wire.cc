// SPDX-License-Identifier: MIT
#include "core/import/onnx/wire.h"

#include <bit>

namespace lstm::core::onnx {

bool Fields::Varint(uint64_t& value) {
  value = 0;
  for (unsigned shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
    const auto byte = static_cast<unsigned char>(rest_.front());
    rest_.remove_prefix(1);
    value |= static_cast<uint64_t>(byte & 0x7fu) << shift;
    if (byte < 0x80) return true;
  }
  return ok_ = false;
}

bool Fields::Fixed(size_t bytes, uint64_t& value) {
  if (rest_.size() < bytes) return ok_ = false;
  value = 0;
  for (size_t i = 0; i < bytes; ++i) value |= static_cast<uint64_t>(static_cast<unsigned char>(rest_[i])) << (8 * i);
  rest_.remove_prefix(bytes);
  return true;
}

bool Fields::Next(Field& field) {
  if (rest_.empty() || !ok_) return false;
  uint64_t tag = 0;
  if (!Varint(tag)) return false;
  if (tag > UINT32_MAX || tag >> 3 == 0) return ok_ = false;
  field.number = static_cast<uint32_t>(tag >> 3);
  field.wire = static_cast<uint32_t>(tag & 7);
  field.bytes = {};
  switch (field.wire) {
    case 0: return Varint(field.value);
    case 1: return Fixed(8, field.value);
    case 5: return Fixed(4, field.value);
    case 2:
      if (!Varint(field.value)) return false;
      if (field.value > rest_.size()) return ok_ = false;
      field.bytes = rest_.substr(0, field.value);
      rest_.remove_prefix(field.value);
      return true;
    default: return ok_ = false;  // groups are long gone
  }
}

bool AppendInts(const Field& field, std::vector<int64_t>& out) {
  if (field.wire == 0) {
    out.push_back(static_cast<int64_t>(field.value));
    return true;
  }
  if (field.wire != 2) return false;
  std::string_view rest = field.bytes;
  while (!rest.empty()) {
    uint64_t value = 0;
    unsigned shift = 0;
    for (;; shift += 7) {
      if (rest.empty() || shift >= 64) return false;
      const auto byte = static_cast<unsigned char>(rest.front());
      rest.remove_prefix(1);
      value |= static_cast<uint64_t>(byte & 0x7fu) << shift;
      if (byte < 0x80) break;
    }
    out.push_back(static_cast<int64_t>(value));
  }
  return true;
}

bool AppendFloats(const Field& field, std::vector<float>& out) {
  if (field.wire == 5) {
    out.push_back(std::bit_cast<float>(static_cast<uint32_t>(field.value)));
    return true;
  }
  if (field.wire != 2 || field.bytes.size() % 4 != 0) return false;
  for (size_t i = 0; i < field.bytes.size(); i += 4) {
    uint32_t bits = 0;
    for (size_t k = 0; k < 4; ++k) bits |= static_cast<uint32_t>(static_cast<unsigned char>(field.bytes[i + k])) << (8 * k);
    out.push_back(std::bit_cast<float>(bits));
  }
  return true;
}

}  // namespace lstm::core::onnx
