// SPDX-License-Identifier: MIT
#include "core/import/onnx/tensor.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/onnx/wire.h"

namespace lstm::core::onnx {
namespace {

enum Type : int64_t { kFloat = 1, kUint8, kInt8, kUint16, kInt16, kInt32, kInt64, kString, kBool, kHalf, kDouble, kUint32, kUint64, kBfloat = 16 };

size_t Width(int64_t type) {
  switch (type) {
    case kUint8: case kInt8: case kBool: return 1;
    case kUint16: case kInt16: case kHalf: case kBfloat: return 2;
    case kFloat: case kInt32: case kUint32: return 4;
    case kInt64: case kUint64: case kDouble: return 8;
    default: return 0;
  }
}

float FromHalf(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16, exponent = (half >> 10) & 31u, fraction = half & 1023u;
  if (exponent == 0) return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(static_cast<float>(fraction) * 0x1p-24f));
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | fraction << 13);
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
}

// One element from its bytes, whatever field they came in.
void Append(Tensor& out, int64_t type, uint64_t bits) {
  switch (type) {
    case kFloat: out.floats.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits))); break;
    case kDouble: out.floats.push_back(static_cast<float>(std::bit_cast<double>(bits))); break;
    case kHalf: out.floats.push_back(FromHalf(static_cast<uint16_t>(bits))); break;
    case kBfloat: out.floats.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits & 0xffff) << 16)); break;
    case kInt8: out.floats.push_back(static_cast<int8_t>(bits)); break;
    case kInt16: out.ints.push_back(static_cast<int16_t>(bits)); break;
    case kInt32: out.ints.push_back(static_cast<int32_t>(bits)); break;
    case kUint8: out.floats.push_back(static_cast<uint8_t>(bits)); break;
    case kBool: out.ints.push_back(static_cast<uint8_t>(bits)); break;
    case kUint16: out.ints.push_back(static_cast<uint16_t>(bits)); break;
    case kUint32: out.ints.push_back(static_cast<uint32_t>(bits)); break;
    default: out.ints.push_back(static_cast<int64_t>(bits)); break;
  }
}

// Which typed field may carry a type: float_data, int32_data, int64_data, double_data, uint64_data.
uint32_t TypedField(int64_t type) {
  switch (type) {
    case kFloat: return 4;
    case kInt64: return 7;
    case kDouble: return 10;
    case kUint32: case kUint64: return 11;
    default: return 5;
  }
}

}  // namespace

bool IsQuantized(int64_t type) { return type == kUint8 || type == kInt8; }

bool IsFloatType(int64_t type) { return type == kFloat || type == kHalf || type == kDouble || type == kBfloat; }

absl::StatusOr<TensorPtr> LoadTensor(const StoredTensor& stored) {
  const auto bad = [&](absl::string_view what) { return absl::InvalidArgumentError(absl::StrCat("tensor ", Shown(stored.name), " ", what)); };
  const size_t width = Width(stored.type);
  if (width == 0) return bad(absl::StrCat("has element type ", stored.type, ", expected floats or integers"));
  auto out = std::make_shared<Tensor>();
  out->is_float = IsFloatType(stored.type) || IsQuantized(stored.type);
  out->type = stored.type;
  out->shape = stored.shape;
  const int64_t count = CheckedElementCount(stored.shape);
  if (!out->is_float && count > kMaxInts) return bad(absl::StrCat("has ", count, " integers, expected at most ", kMaxInts));
  const auto said = static_cast<uint64_t>(count);
  const auto wrong = [&](uint64_t came) { return bad(absl::StrCat("of shape ", ShapeString(stored.shape), " has data for ", came, " elements, expected ", said)); };
  // Sizes are believed once there are bytes for them.
  if (said > stored.message.size()) return wrong(stored.message.size() / width);
  if (out->is_float) out->floats.reserve(said);
  Fields fields(stored.message);
  Field f;
  const uint32_t typed = TypedField(stored.type);
  while (fields.Next(f)) {
    if (f.number == 9 && f.wire == 2) {
      if (f.bytes.size() != said * width || out->size() != 0) return wrong(f.bytes.size() / width);
      for (uint64_t i = 0; i < said; ++i) {
        uint64_t bits = 0;
        std::memcpy(&bits, f.bytes.data() + i * width, width);
        Append(*out, stored.type, bits);
      }
    } else if (f.number == typed && typed == 4) {
      if ((f.wire == 2 ? f.bytes.size() / 4 : 1) + out->size() > said) return wrong(said + 1);
      if (!AppendFloats(f, out->floats)) return bad("is damaged");
    } else if (f.number == typed && typed == 10) {
      const std::string_view bytes = f.bytes;
      if (f.wire == 1) Append(*out, kDouble, f.value);
      for (size_t i = 0; f.wire == 2 && i + 8 <= bytes.size(); i += 8) {
        uint64_t bits = 0;
        std::memcpy(&bits, bytes.data() + i, 8);
        if (out->size() < said) Append(*out, kDouble, bits);
      }
    } else if (f.number == typed) {
      std::vector<int64_t> numbers;
      if (f.wire == 2 && f.bytes.size() > 10 * said) return wrong(said + 1);
      if (!AppendInts(f, numbers)) return bad("is damaged");
      if (numbers.size() + out->size() > said) return wrong(numbers.size() + out->size());
      for (int64_t n : numbers) Append(*out, stored.type, static_cast<uint64_t>(n));
    }
  }
  if (out->size() != said) return wrong(out->size());
  for (size_t i = 0; i < out->floats.size(); ++i) {
    if (!std::isfinite(out->floats[i])) return bad(absl::StrCat("is not a finite float at element ", i));
  }
  return TensorPtr(out);
}

absl::StatusOr<Tensor> ParseTensorFile(std::span<const std::byte> file) {
  LSTM_ASSIGN_OR_RETURN(const StoredTensor stored, ReadTensor({reinterpret_cast<const char*>(file.data()), file.size()}));
  LSTM_ASSIGN_OR_RETURN(const TensorPtr tensor, LoadTensor(stored));
  return *tensor;
}

}  // namespace lstm::core::onnx
