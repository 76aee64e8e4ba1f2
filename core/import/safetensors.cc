// SPDX-License-Identifier: MIT
#include "core/import/safetensors.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"

namespace lstm::core {
namespace {

constexpr size_t kMaxHeaderBytes = 100u << 20;
constexpr size_t kMaxTensors = 100'000;
constexpr size_t kMaxNameBytes = 512;
constexpr size_t kMaxDims = 8;
constexpr size_t kMaxTokenBytes = 1u << 20;

struct Declared {
  std::string name;
  std::string type;
  Shape shape;
  std::vector<uint64_t> offsets;
};

std::string Shown(const std::string& name) {
  std::string out = "'";
  for (char c : name.substr(0, 100)) out.push_back(c >= ' ' && c <= '~' ? c : '?');
  return out + "'";
}

// Reads the header as a stream of events: a document tree of a hostile header could be many times its size.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::vector<Declared> tensors;
  std::string error;

  bool null() override { return Fail("null"); }
  bool boolean(bool) override { return Fail("a boolean"); }
  bool number_integer(number_integer_t) override { return Fail("a negative number"); }
  bool number_float(number_float_t, const string_t&) override { return Fail("a fraction"); }
  bool binary(binary_t&) override { return Fail("binary"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (skipping_ || !in_array_) return Fail("a number");
    if (field_ == "shape") {
      if (value > static_cast<uint64_t>(kMaxElements)) return Fail("a dimension above the limit");
      if (tensors.back().shape.size() == kMaxDims) return Fail("more than 8 dimensions");
      tensors.back().shape.push_back(static_cast<int64_t>(value));
    } else {
      if (tensors.back().offsets.size() == 2) return Fail("more than two data_offsets");
      tensors.back().offsets.push_back(value);
    }
    return true;
  }
  bool string(string_t& value) override {
    if (skipping_) return depth_ == 2 || Fail("nesting in __metadata__");
    if (depth_ != 2 || in_array_ || field_ != "dtype" || !tensors.back().type.empty()) return Fail("a string");
    tensors.back().type = value.substr(0, 16);
    return true;
  }
  bool start_object(size_t) override {
    if (++depth_ > 2 || in_array_) return Fail("an object");
    return true;
  }
  bool end_object() override {
    if (--depth_ == 1) skipping_ = false;
    return true;
  }
  bool start_array(size_t) override {
    if (skipping_ || depth_ != 2 || in_array_ || (field_ != "shape" && field_ != "data_offsets")) return Fail("an array");
    bool& seen = field_ == "shape" ? seen_shape_ : seen_offsets_;
    if (seen) return Fail("a repeated field");
    seen = in_array_ = true;
    return true;
  }
  bool end_array() override {
    in_array_ = false;
    return true;
  }
  bool key(string_t& value) override {
    if (depth_ == 1) {
      skipping_ = value == "__metadata__";
      if (skipping_) return true;
      if (tensors.size() == kMaxTensors) return Fail("more than 100000 tensors");
      if (value.empty() || value.size() > kMaxNameBytes) return Fail("a name that is empty or too long");
      tensors.push_back({value, "", {}, {}});
      seen_shape_ = seen_offsets_ = false;
    } else if (!skipping_) {
      field_ = value;
      if (value != "dtype" && value != "shape" && value != "data_offsets") return Fail("an unknown field");
    }
    return true;
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    if (error.empty()) error = absl::StrCat("is not JSON at byte ", position);
    return false;
  }

 private:
  bool Fail(const char* what) {
    if (error.empty()) {
      error = absl::StrCat("has ", what, " where none is expected",
                           tensors.empty() ? std::string() : absl::StrCat(", at or after tensor ", Shown(tensors.back().name)));
    }
    return false;
  }
  int depth_ = 0;
  bool in_array_ = false;
  bool skipping_ = false;  // inside __metadata__
  bool seen_shape_ = false, seen_offsets_ = false;
  std::string field_;
};

// True where a name, a text, a number or a run of blanks is longer than the JSON reader, which keeps several copies of what it
// is reading, should be given.
bool HasEndlessToken(std::string_view text) {
  size_t run = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string && c == '\\') {
      ++i;
      ++run;
    } else if (c == '"') {
      in_string = !in_string;
      run = 0;
    } else if (!in_string && (c == ',' || c == ':' || c == '{' || c == '}' || c == '[' || c == ']')) {
      run = 0;
    }
    if (++run > kMaxTokenBytes) return true;
  }
  return false;
}

absl::StatusOr<Safetensors::Type> TypeOf(const Declared& tensor) {
  if (tensor.type == "F32") return Safetensors::Type::kF32;
  if (tensor.type == "F16") return Safetensors::Type::kF16;
  if (tensor.type == "BF16") return Safetensors::Type::kBF16;
  if (tensor.type == "F64") return Safetensors::Type::kF64;
  return absl::InvalidArgumentError(
      absl::StrCat("tensor ", Shown(tensor.name), " has dtype ", Shown(tensor.type), ", expected F32, F16, BF16 or F64"));
}

uint64_t Width(Safetensors::Type type) {
  return type == Safetensors::Type::kF32 ? 4 : type == Safetensors::Type::kF64 ? 8 : 2;
}

float FromHalf(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16, exponent = (half >> 10) & 31u, fraction = half & 1023u;
  if (exponent == 0) return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(static_cast<float>(fraction) * 0x1p-24f));
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | fraction << 13);
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
}

template <typename T, typename F>
void Convert(std::span<const std::byte> from, std::span<float> to, F convert) {
  for (size_t i = 0; i < to.size(); ++i) {
    T value;
    std::memcpy(&value, from.data() + i * sizeof(T), sizeof(T));
    to[i] = convert(value);
  }
}

}  // namespace

absl::StatusOr<Safetensors> Safetensors::Parse(std::span<const std::byte> file) {
  if (file.size() < 8) return absl::InvalidArgumentError(absl::StrCat("safetensors file has ", file.size(), " bytes, expected at least 8"));
  uint64_t length;
  std::memcpy(&length, file.data(), sizeof(length));
  if (length > kMaxHeaderBytes || length > file.size() - 8) {
    return absl::InvalidArgumentError(absl::StrCat("safetensors header is said to have ", length, " bytes, the file has ",
                                                   file.size() - 8, " after its length and the limit is ", kMaxHeaderBytes));
  }
  HeaderReader reader;
  const char* text = reinterpret_cast<const char*>(file.data()) + 8;
  if (HasEndlessToken({text, length})) {
    return absl::InvalidArgumentError(absl::StrCat("safetensors header has a name, number or blank of more than ", kMaxTokenBytes, " bytes"));
  }
  if (!nlohmann::json::sax_parse(text, text + length, &reader)) {
    return absl::InvalidArgumentError(absl::StrCat("safetensors header ", reader.error));
  }
  const std::span<const std::byte> data = file.subspan(8 + length);
  std::sort(reader.tensors.begin(), reader.tensors.end(),
            [](const Declared& a, const Declared& b) { return a.offsets < b.offsets; });
  Safetensors out;
  uint64_t end = 0;
  for (const Declared& tensor : reader.tensors) {
    LSTM_ASSIGN_OR_RETURN(const Type type, TypeOf(tensor));
    auto count = ElementCount(tensor.shape);
    if (!count.ok()) return absl::InvalidArgumentError(absl::StrCat("tensor ", Shown(tensor.name), ": ", count.status().message()));
    if (tensor.offsets.size() != 2) return absl::InvalidArgumentError(absl::StrCat("tensor ", Shown(tensor.name), " has no two data_offsets"));
    const uint64_t from = tensor.offsets[0], to = tensor.offsets[1], bytes = static_cast<uint64_t>(*count) * Width(type);
    if (from != end || to < from || to > data.size() || to - from != bytes) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", Shown(tensor.name), " of shape ", ShapeString(tensor.shape), " lies at ", from,
                                                     " to ", to, ", expected ", bytes, " bytes from ", end, " within ", data.size()));
    }
    end = to;
    out.float_bytes_ += static_cast<uint64_t>(*count) * sizeof(float);
    if (!out.entries_.emplace(tensor.name, Entry{type, tensor.shape, data.subspan(from, bytes)}).second) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", Shown(tensor.name), " is there twice"));
    }
  }
  if (end != data.size()) {
    return absl::InvalidArgumentError(absl::StrCat("safetensors file has ", data.size() - end, " bytes behind its last tensor"));
  }
  return out;
}

absl::StatusOr<ConstantPtr> Safetensors::Load(const std::string& name) const {
  const auto it = entries_.find(name);
  if (it == entries_.end()) return absl::NotFoundError(absl::StrCat("tensor ", Shown(name), " is missing"));
  const Entry& entry = it->second;
  auto constant = std::make_shared<Constant>();
  constant->shape = entry.shape;
  constant->values = AlignedBuffer<float>(static_cast<size_t>(CheckedElementCount(entry.shape)));
  const std::span<float> to = constant->values.span();
  switch (entry.type) {
    case Type::kF32: Convert<float>(entry.bytes, to, [](float v) { return v; }); break;
    case Type::kF64: Convert<double>(entry.bytes, to, [](double v) { return static_cast<float>(v); }); break;
    case Type::kF16: Convert<uint16_t>(entry.bytes, to, FromHalf); break;
    case Type::kBF16: Convert<uint16_t>(entry.bytes, to, [](uint16_t v) { return std::bit_cast<float>(uint32_t{v} << 16); }); break;
  }
  // Millions of them: looked at together, and one by one where there is something to say.
  bool finite = true;
  for (const float value : to) finite = finite & std::isfinite(value);
  if (finite) return constant;
  const auto bad = std::find_if(to.begin(), to.end(), [](float value) { return !std::isfinite(value); });
  return absl::InvalidArgumentError(absl::StrCat("tensor ", Shown(name), " is not a finite float at element ", bad - to.begin()));
}

}  // namespace lstm::core
