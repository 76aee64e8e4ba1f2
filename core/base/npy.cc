// SPDX-License-Identifier: MIT
#include "core/base/npy.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "core/base/status_macros.h"

namespace lstm::core {
namespace {

constexpr char kMagic[] = "\x93NUMPY";
constexpr size_t kMagicBytes = 6;

absl::Status Bad(const std::string& what) { return absl::InvalidArgumentError(absl::StrCat("npy file ", what)); }

// The text after "'key':" in the header, a Python literal of a dictionary.
absl::StatusOr<std::string> Field(const std::string& header, const std::string& key) {
  const size_t at = header.find(absl::StrCat("'", key, "'"));
  const size_t colon = at == std::string::npos ? at : header.find(':', at);
  if (colon == std::string::npos) return Bad(absl::StrCat("has no '", key, "' in its header"));
  const size_t begin = header.find_first_not_of(' ', colon + 1);
  if (begin == std::string::npos) return Bad(absl::StrCat("has no value for '", key, "'"));
  const char close = header[begin] == '(' ? ')' : header[begin] == '\'' ? '\'' : ',';
  const size_t end = header.find(close, begin + 1);
  if (end == std::string::npos) return Bad(absl::StrCat("has no end of '", key, "'"));
  const size_t skip = close == ',' ? 0 : 1;
  return header.substr(begin + skip, end - begin - skip);
}

template <typename To, typename From>
std::vector<To> Convert(const std::vector<std::byte>& data) {
  std::vector<To> out(data.size() / sizeof(From));
  for (size_t i = 0; i < out.size(); ++i) {
    From value;
    std::memcpy(&value, data.data() + i * sizeof(From), sizeof(From));
    out[i] = static_cast<To>(value);
  }
  return out;
}

template <typename To>
std::vector<To> ConvertAny(const NpyArray& array) {
  switch (array.type) {
    case NpyArray::Type::kF32: return Convert<To, float>(array.data);
    case NpyArray::Type::kF64: return Convert<To, double>(array.data);
    case NpyArray::Type::kI32: return Convert<To, int32_t>(array.data);
    case NpyArray::Type::kI64: return Convert<To, int64_t>(array.data);
  }
  return {};
}

}  // namespace

std::vector<float> NpyArray::ToFloats() const { return ConvertAny<float>(*this); }
std::vector<int64_t> NpyArray::ToInts() const { return ConvertAny<int64_t>(*this); }

absl::StatusOr<NpyArray> ParseNpy(std::span<const std::byte> file) {
  const auto byte = [&](size_t i) { return static_cast<size_t>(file[i]); };
  if (file.size() < 12 || std::memcmp(file.data(), kMagic, kMagicBytes) != 0) return Bad("does not begin as one");
  const size_t version = byte(6);
  if (version < 1 || version > 3) return Bad(absl::StrCat("has version ", version, ", expected 1 to 3"));
  const size_t begin = version == 1 ? 10 : 12;
  const size_t length = version == 1 ? byte(8) | byte(9) << 8 : byte(8) | byte(9) << 8 | byte(10) << 16 | byte(11) << 24;
  if (length > 1u << 16 || length > file.size() - begin) return Bad(absl::StrCat("has a header of ", length, " bytes"));
  const std::string header(reinterpret_cast<const char*>(file.data()) + begin, length);
  NpyArray array;
  LSTM_ASSIGN_OR_RETURN(const std::string type, Field(header, "descr"));
  size_t width = 0;
  if (type == "<f4") {
    array.type = NpyArray::Type::kF32, width = 4;
  } else if (type == "<f8") {
    array.type = NpyArray::Type::kF64, width = 8;
  } else if (type == "<i4") {
    array.type = NpyArray::Type::kI32, width = 4;
  } else if (type == "<i8") {
    array.type = NpyArray::Type::kI64, width = 8;
  } else {
    return Bad(absl::StrCat("has type '", type.substr(0, 16), "', expected <f4, <f8, <i4 or <i8"));
  }
  LSTM_ASSIGN_OR_RETURN(const std::string order, Field(header, "fortran_order"));
  LSTM_ASSIGN_OR_RETURN(const std::string shape, Field(header, "shape"));
  for (absl::string_view part : absl::StrSplit(shape, ',', absl::SkipWhitespace())) {
    int64_t dim = 0;
    if (!absl::SimpleAtoi(part, &dim) || array.shape.size() == 8) return Bad("has a shape that cannot be read");
    array.shape.push_back(dim);
  }
  if (order != "False" && array.shape.size() > 1) return Bad("is in Fortran order, expected C order");
  LSTM_ASSIGN_OR_RETURN(const int64_t count, ElementCount(array.shape));
  const auto data = file.subspan(begin + length);
  if (data.size() != static_cast<uint64_t>(count) * width) {
    return Bad(absl::StrCat("has ", data.size(), " bytes of data, expected ", static_cast<uint64_t>(count) * width, " for shape ",
                            ShapeString(array.shape)));
  }
  array.data.assign(data.begin(), data.end());
  return array;
}

absl::StatusOr<NpyArray> ReadNpy(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file) return absl::NotFoundError(absl::StrCat("'", path, "' cannot be read"));
  return ParseNpy(std::as_bytes(std::span(bytes)));
}

std::string FormatNpy(const Shape& shape, std::span<const float> values) {
  std::string header = absl::StrCat("{'descr': '<f4', 'fortran_order': False, 'shape': (", absl::StrJoin(shape, ", "),
                                    shape.size() == 1 ? "," : "", "), }");
  header.append(63 - (10 + header.size()) % 64, ' ');
  header.push_back('\n');
  std::string out(kMagic, kMagicBytes);
  out.push_back(1);
  out.push_back(0);
  out.push_back(static_cast<char>(header.size() & 0xff));
  out.push_back(static_cast<char>(header.size() >> 8));
  out += header;
  out.append(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
  return out;
}

}  // namespace lstm::core
